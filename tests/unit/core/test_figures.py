"""The figures of training: what is kept, what is warned of, what ends the stage."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorapar_core import events
from lorapar_core.errors import TrainingError
from lorapar_core.figures import Figures

MIXED = {"rewards/integer/mean": 0.5, "rewards/integer/std": 0.5}
SAME = {"rewards/integer/mean": 0.25, "rewards/integer/std": 0.0}


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events that were sent."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "_sink", sent.append)
    return sent


LAST = 9


def log(figures: Figures, step: int, **row: Any) -> None:
    state = SimpleNamespace(global_step=step, max_steps=LAST)
    figures.on_log(None, state, None, {"loss": 1.0, **row})


@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_ends_the_stage(figure: str, value: float) -> None:
    with pytest.raises(TrainingError, match=rf"is {value} at step 3; lower the learning rate"):
        log(Figures(), 3, **{figure: value})


def test_speeds_stand_in_metrics_only(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    figures = Figures()
    log(figures, 1, tokens_per_second=7.0, step_time=0.5, note="no number")
    log(figures, 2, tokens_per_second=8.0, train_runtime=3.0)  # trl's last words
    figures.save(tmp_path)
    (row,) = (json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert row == {"step": 1, "loss": 1.0, "tokens_per_second": 7.0, "step_time": 0.5}
    (row,) = (json.loads(x) for x in (tmp_path / "figures.jsonl").read_text().splitlines())
    assert row == {"step": 1, "loss": 1.0}
    (event,) = told
    assert (event["step"], event["total"], event["tokens_per_second"]) == (1, 9, 7.0)

    again = Figures()
    again.load(tmp_path)
    assert again.rows == figures.rows


def test_a_reward_that_is_the_same_for_all_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    figures = Figures()
    log(figures, 1, **MIXED)
    assert not caplog.records
    log(figures, 2, **SAME)
    assert caplog.messages == [
        "reward 'integer' was 0.25 for every completion of step 2: it taught nothing"
    ]
    assert caplog.records[0].levelno == logging.WARNING
    for step in range(3, 12):
        log(figures, step, **SAME)
    (again,) = caplog.messages[1:]
    assert again.endswith("of step 11: it taught nothing (10 steps so far)")


def test_completions_that_are_mostly_cut_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    figures = Figures()
    log(figures, 1, **{"completions/clipped_ratio": 0.5})
    assert not caplog.records
    log(figures, 2, **{"completions/clipped_ratio": 0.75})
    (said,) = caplog.messages
    assert said.startswith("75% of the completions of step 2 were cut at")


def test_a_learning_rate_that_never_leaves_0_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    figures = Figures()
    log(figures, 1, learning_rate=0.0)
    log(figures, LAST, learning_rate=0.0)
    (said,) = caplog.messages
    assert said.startswith("the learning rate was 0 in every step: nothing was trained")
    caplog.clear()
    figures = Figures()
    log(figures, 1, learning_rate=0.1)
    log(figures, LAST, learning_rate=0.0)
    assert not caplog.records
