"""Experiment trackers: refused where absent, set up through the trainer's own arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lorapar_core import trackers
from lorapar_core.errors import ConfigError
from lorapar_core.trackers import require_trackers, tracking

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
