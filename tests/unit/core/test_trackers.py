"""Experiment trackers: refused where absent, set up through the trainer's own arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorapar_core import trackers
from lorapar_core.errors import ConfigError
from lorapar_core.trackers import own_runs, require_trackers, tracking

VARIABLES = ("TENSORBOARD_LOGGING_DIR", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT")


def test_one_that_is_absent_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    require_trackers([])
    message = "runtime.trackers names trackio, wandb, which isn't installed; pip install trackio"
    with pytest.raises(ConfigError, match=message):
        require_trackers(["trackio", "wandb"])


def test_what_the_trainer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    told = tracking([], run="grpo-1", directory=Path("/d"))
    assert told == {"report_to": "none", "run_name": "grpo-1", "project": "lorapar"}
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    told = tracking(["tensorboard", "wandb"], run="grpo-1", directory=Path("/d"))
    assert told["report_to"] == ["tensorboard", "wandb"]
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/d/grpo-1"
    assert os.environ["WANDB_PROJECT"] == "mine"
    tracking(["tensorboard"], run="sft-2", directory=Path("/d"))  # the process's next stage
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/d/sft-2"
    monkeypatch.setattr(trackers, "_THEIRS", "/theirs")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/theirs")
    tracking(["tensorboard"], run="sft-3", directory=Path("/d"))
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/theirs"


def test_open_runs_end_as_training_did(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes, states = list[int](), list[str]()

    def gone(status: str) -> None:
        states.append(status)
        raise OSError("no route to host")

    wandb = SimpleNamespace(run=object(), finish=lambda exit_code: codes.append(exit_code))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(
        sys.modules, "mlflow", SimpleNamespace(active_run=lambda: object(), end_run=gone)
    )
    both = ["mlflow", "wandb"]
    with own_runs([]):  # somebody else's
        pass
    with own_runs(both):
        pass
    with pytest.raises(KeyError), own_runs(both):
        raise KeyError
    assert codes == [0, 1]
    assert states == ["FINISHED", "FAILED"]
    assert "mlflow: its run can't be ended (no route to host)" in caplog.text
    monkeypatch.setattr(wandb, "run", None)
    with own_runs(both):
        pass
    assert codes == [0, 1]
