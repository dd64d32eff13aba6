"""Processes and nodes that can't train together are refused; each is told who it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.errors import ConfigError
from lorapar_core.launch import _variables, require_launchable
from lorapar_core.recipe import parse_recipe


def recipe(*, grpo: dict[str, Any] | None = None, **runtime: Any) -> Recipe:
    fields = tiny_recipe(Path("/model"))
    fields["sft"] |= {"accumulation": 4}
    fields["grpo"] |= {"accumulation": 4, **(grpo or {})}
    fields["runtime"] |= runtime
    return parse_recipe(fields)


def test_what_can_train_together() -> None:
    require_launchable(recipe())
    require_launchable(recipe(processes=2))
    require_launchable(recipe(processes=4, grpo={"steps_per_generation": 8}))
    require_launchable(recipe(processes=2, nodes=2, node=1, rendezvous="there:29500"))


@pytest.mark.parametrize(
    ("runtime", "grpo", "message"),
    [
        ({"processes": 3}, {}, "grpo.accumulation is 4, which 3 processes can't share evenly"),
        (
            {"processes": 4},
            {"steps_per_generation": 6},
            "grpo.steps_per_generation is 6, which 4 processes can't share evenly",
        ),
        ({"nodes": 2}, {}, "2 nodes need runtime.rendezvous, host:port of node 0"),
        ({"node": 1}, {}, "runtime.node is 1, but there are 1 nodes; the first is 0"),
    ],
)
def test_what_can_not(runtime: dict[str, Any], grpo: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_launchable(recipe(grpo=grpo, **runtime))
    assert message in str(refused.value)


def test_each_process_is_told_who_it_is() -> None:
    runtime = RuntimeConfig(processes=2, nodes=3, node=1, rendezvous="there:29500")
    told = _variables(runtime, threads=4)
    assert [own["RANK"] for own in told] == ["2", "3"]
    assert [own["LOCAL_RANK"] for own in told] == ["0", "1"]
    assert {own["WORLD_SIZE"] for own in told} == {"6"}
    assert {(own["MASTER_ADDR"], own["MASTER_PORT"]) for own in told} == {("there", "29500")}
    assert {own["OMP_NUM_THREADS"] for own in told} == {"4"}
    alone = _variables(RuntimeConfig(processes=2), threads=1)
    assert len({own["MASTER_PORT"] for own in alone}) == 1
    assert {own["MASTER_ADDR"] for own in alone} == {"127.0.0.1"}
