"""Processes that train a stage together: refused where they can't, told who they are, heard."""

from __future__ import annotations

import queue
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from lorapar_core import events, launch
from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.errors import ConfigError, LoraparError, StageFailed, Stopped, TrainingError
from lorapar_core.launch import (
    Said,
    listen,
    require_launchable,
    require_node_command,
    variables,
)
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
    require_launchable(recipe(nodes=2, processes=2, node_command=["srun"]))


@pytest.mark.parametrize(
    ("processes", "grpo", "message"),
    [
        (3, {}, "grpo.accumulation is 4, which 3 processes can't share evenly"),
        (
            4,
            {"steps_per_generation": 6},
            "grpo.steps_per_generation is 6, which 4 processes can't share evenly",
        ),
    ],
)
def test_what_can_not(processes: int, grpo: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_launchable(recipe(grpo=grpo, processes=processes))
    assert message in str(refused.value)


def test_two_stages_at_once_share_no_address() -> None:
    nodes = {"nodes": 2, "node_command": ["srun"], "main_address": "here:80"}
    require_launchable(recipe(**nodes))
    with pytest.raises(ConfigError, match="2 children may train at a time"):
        require_launchable(recipe(**nodes, children=2))


def test_nodes_share_a_step_too() -> None:
    with pytest.raises(ConfigError, match="is 4, which 8 processes can't share evenly"):
        require_launchable(recipe(nodes=4, processes=2, node_command=["srun"]))


def test_nodes_need_a_command_that_is_there() -> None:
    with pytest.raises(ConfigError, match=r"nodes is 2, and runtime\.node_command is empty"):
        require_launchable(recipe(nodes=2))
    require_node_command(recipe().runtime)
    require_node_command(recipe(nodes=2, node_command=[sys.executable]).runtime)
    absent = recipe(nodes=2, node_command=["no-such-program", "-x"]).runtime
    with pytest.raises(ConfigError, match="begins with 'no-such-program', which isn't found"):
        require_node_command(absent)


def test_each_process_is_told_who_it_is() -> None:
    told = variables(RuntimeConfig(processes=3, threads=4), address="127.0.0.1:1234")
    assert [own["RANK"] for own in told] == ["0", "1", "2"]
    assert [own["LOCAL_RANK"] for own in told] == ["0", "1", "2"]
    assert {own["WORLD_SIZE"] for own in told} == {"3"}
    assert {own["MASTER_ADDR"] for own in told} == {"127.0.0.1"}
    assert {own["MASTER_PORT"] for own in told} == {"1234"}
    assert {own["OMP_NUM_THREADS"] for own in told} == {"4"}


def test_those_of_a_second_node_come_after() -> None:
    runtime = RuntimeConfig(nodes=3, processes=2)
    told = variables(runtime, address="first:1234", node=1)
    assert [own["RANK"] for own in told] == ["2", "3"]
    assert [own["LOCAL_RANK"] for own in told] == ["0", "1"]
    assert {own["WORLD_SIZE"] for own in told} == {"6"}
    assert {own["LOCAL_WORLD_SIZE"] for own in told} == {"2"}
    assert {own["MASTER_ADDR"] for own in told} == {"first"}


DONE = {"event": "done"}
STEP = {"event": "progress", "step": 1, "total": 2}
LOST = {"event": "error", "kind": "RuntimeError", "message": "connection closed by peer"}
FULL = {"event": "error", "kind": "TrainingError", "message": "the disk is full"}


def heard(*said: tuple[int, dict[str, Any] | None], stopping: bool = False) -> LoraparError | None:
    """The error that two processes' words come to."""
    words: Said = queue.Queue()
    for word in said:
        words.put(word)
    try:
        listen(words, processes=2, stopping=lambda: stopping)
    except LoraparError as error:
        return error
    return None


def test_rank_0_is_passed_on_until_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "_sink", passed.append)
    other = {**STEP, "step": 2}
    assert heard((0, STEP), (1, other), (1, DONE), (1, None), (0, other), (0, DONE)) is None
    assert passed == [STEP, other]


def test_the_error_that_tells_why_is_the_one_raised() -> None:
    """A process that fails takes the connection from the others, whose word may come first."""
    error = heard((1, LOST), (1, None), (0, FULL))
    assert type(error) is TrainingError
    assert str(error) == "the disk is full"
    assert type(heard((0, FULL), (1, LOST))) is TrainingError
    error = heard((1, LOST), (0, LOST), (0, None))
    assert type(error) is StageFailed
    assert "connection closed by peer" in str(error)


def test_one_that_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_CAUSE_S", 0.1)  # all words are there
    error = heard((0, STEP), (1, None), (0, LOST))
    assert type(error) is StageFailed
    assert type(heard((1, None))) is StageFailed
    assert str(heard((1, LOST), (0, None))) == "process 0 of 2 ended while training"
    assert type(heard((1, None), stopping=True)) is Stopped


def test_all_have_stopped_before_it_is_said() -> None:
    """Rank 0 may be writing the checkpoint still when rank 1 has ended its step."""
    stopped = {"event": "error", "kind": "Stopped", "message": "stopped after step 1"}
    words: Said = queue.Queue()
    for word in ((1, stopped), (0, STEP), (0, stopped)):
        words.put(word)
    with pytest.raises(Stopped, match="stopped after step 1"):
        listen(words, processes=2, stopping=lambda: True)
    assert words.empty()
    assert type(heard((1, stopped), (0, FULL), stopping=True)) is TrainingError
