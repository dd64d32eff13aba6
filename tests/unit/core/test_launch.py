"""Processes that train a stage together: refused where they can't, told who they are, heard."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from lorapar_core import events
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError, LoraparError, StageFailed, Stopped, TrainingError
from lorapar_core.launch import Said, _variables, listen, require_launchable
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


def test_each_process_is_told_who_it_is() -> None:
    told = _variables(3, threads=4)
    assert [own["RANK"] for own in told] == ["0", "1", "2"]
    assert [own["LOCAL_RANK"] for own in told] == ["0", "1", "2"]
    assert {own["WORLD_SIZE"] for own in told} == {"3"}
    assert {own["MASTER_ADDR"] for own in told} == {"127.0.0.1"}
    assert len({own["MASTER_PORT"] for own in told}) == 1
    assert {own["OMP_NUM_THREADS"] for own in told} == {"4"}


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


def test_one_that_ends_without_a_word() -> None:
    error = heard((0, STEP), (1, None), (0, LOST))
    assert type(error) is StageFailed
    assert type(heard((1, None))) is StageFailed
    assert type(heard((1, None), stopping=True)) is Stopped
