"""Experiment trackers that also get a training stage's figures, through transformers' callbacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lorapar_core.errors import ConfigError

_PROJECT = "lorapar"
_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"
_THEIRS = os.environ.get(_TENSORBOARD)
"""As it was when the process began: the user's."""
_DEFAULTS = {"MLFLOW_EXPERIMENT_NAME": _PROJECT, "WANDB_PROJECT": _PROJECT}


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package isn't installed, without importing it.

    Raises:
        ConfigError: as said.
    """
    absent = [name for name in names if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"runtime.trackers names {', '.join(absent)}, which isn't installed; "
            f"pip install {' '.join(absent)}, or leave it out"
        )


def tracking(names: Sequence[str], *, run: str, directory: Path) -> dict[str, object]:
    """Trainer arguments for these trackers; what else they need goes into the environment.

    `directory` gets TensorBoard's files. A variable that is set already is left alone.
    """
    if "tensorboard" in names and _THEIRS is None:  # of each stage anew
        os.environ[_TENSORBOARD] = str(directory / run)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    return {"report_to": list(names) or "none", "run_name": run, "project": _PROJECT}


def end_runs() -> None:
    """End what wandb and mlflow have open, or the process's next stage would log into it."""
    wandb, mlflow = sys.modules.get("wandb"), sys.modules.get("mlflow")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
    if mlflow is not None and mlflow.active_run() is not None:
        mlflow.end_run()
