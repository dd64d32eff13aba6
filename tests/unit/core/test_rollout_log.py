"""The log of generations by itself, and a trainer that takes from it instead of drawing."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorapar_core.errors import TrainingError
from lorapar_core.resume import random_state
from lorapar_core.rollout_log import ReplayedRollouts, RolloutLog, Rollouts

PROMPTS = [[1, 2, 3], [4]]


def drawn(seed: int) -> Rollouts:
    return Rollouts([[seed, 7], [8]], [[-0.1, None], [-1 / 3]], random_state())


@pytest.fixture
def log(tmp_path: Path) -> RolloutLog:
    return RolloutLog(tmp_path / "log", checkpoints=tmp_path / "checkpoints")


def keep(log: RolloutLog, generation: int, seed: int) -> None:
    log.keep(generation, step=4 * generation, prompts=PROMPTS, rollouts=drawn(seed))


def found(log: RolloutLog, generation: int) -> int | None:
    rollouts = log.find(generation, prompts=PROMPTS)
    return rollouts and rollouts.completions[0][0]


def test_what_is_kept_is_found_to_the_bit(log: RolloutLog) -> None:
    keep(log, 3, 11)
    rollouts = log.find(3, prompts=PROMPTS)
    assert rollouts is not None
    assert rollouts.completions == drawn(11).completions
    assert rollouts.log_probabilities == drawn(11).log_probabilities
    assert found(log, 2) is None
    with pytest.raises(TrainingError, match="generation-00000003-step-00000012 is of other prompt"):
        log.find(3, prompts=[[1, 2, 3], [5]])


def test_what_came_after_one_drawn_anew_is_dropped(log: RolloutLog) -> None:
    for generation in range(4):
        keep(log, generation, generation)
    keep(log, 1, 50)
    assert [found(log, generation) for generation in range(4)] == [0, 50, None, None]


@pytest.mark.parametrize("name", ["rollouts.json", "rollouts.safetensors"])
def test_a_torn_one_is_drawn_anew(
    log: RolloutLog, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    keep(log, 0, 1)
    (torn,) = tmp_path.glob(f"log/*/{name}")
    torn.write_bytes(torn.read_bytes()[:20])
    assert found(log, 0) is None
    assert "can't be read and is drawn anew" in caplog.text
    keep(log, 0, 2)
    assert found(log, 0) == 2


def test_what_a_killed_process_left_half_written_is_swept(log: RolloutLog, tmp_path: Path) -> None:
    keep(log, 0, 1)
    (tmp_path / "log" / ".partial-1-ab").mkdir()
    again = RolloutLog(tmp_path / "log", checkpoints=tmp_path / "checkpoints")
    names = [path.name for path in (tmp_path / "log").iterdir()]
    assert names == ["generation-00000000-step-00000000"]
    assert found(again, 0) == 1


class _Draws:
    """In the place of trl's trainer."""

    def __init__(self) -> None:
        self.args = SimpleNamespace(steps_per_generation=2)
        self.num_iterations, self._step, self.times = 2, 5, 0
        self.state = SimpleNamespace(global_step=3)

    def _generate_single_turn(self, prompt_ids: Any, *_: Any) -> Any:
        self.times += 1
        return [(self.times, 7), [8]], [[torch.tensor(-0.5), None], [-1.0]]


class _Trainer(ReplayedRollouts, _Draws):
    pass


def test_a_generation_in_the_log_is_not_drawn(
    log: RolloutLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = _Trainer(), _Trainer()
    first.rollouts = second.rollouts = log
    given = first._generate_single_turn(PROMPTS, None, {}, 1)
    assert given == ([[1, 7], [8]], [[-0.5, None], [-1.0]])
    assert [path.name for path in (tmp_path / "log").iterdir()] == [
        "generation-00000001-step-00000003"
    ]
    assert not caplog.text
    after = torch.rand(2)
    assert second._generate_single_turn(PROMPTS, None, {}, 1) == given
    assert torch.equal(torch.rand(2), after), "as if it had been drawn"
    assert second.times == 0
    assert "generation 1 is replayed from the log of rollouts" in caplog.text


def test_without_a_log_it_draws_as_it_is(log: RolloutLog) -> None:
    trainer = _Trainer()
    for times in (1, 2):
        assert trainer._generate_single_turn(PROMPTS)[0][0] == (times, 7)
