"""Experiment trackers that also get a training stage's figures, through transformers' callbacks."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorapar_core.errors import ConfigError

_LOG = logging.getLogger(__name__)
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


@contextmanager
def own_runs(names: Sequence[str]) -> Iterator[None]:
    """End what these trackers have open afterwards, as failed where training failed: a process's
    next stage would log into it. A tracker that can't be reached spoils no training."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for name, end in _ENDS.items():
            if name in names and name in sys.modules:
                try:
                    end(sys.modules[name], failed)
                except Exception as error:  # noqa: BLE001  whatever it raises
                    _LOG.warning("%s: its run can't be ended (%s)", name, error)


def _end_wandb(wandb: Any, failed: bool) -> None:
    if wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def _end_mlflow(mlflow: Any, failed: bool) -> None:
    if mlflow.active_run() is not None:
        mlflow.end_run(status="FAILED" if failed else "FINISHED")


_ENDS: Mapping[str, Callable[[Any, bool], None]] = {"wandb": _end_wandb, "mlflow": _end_mlflow}
"""Trackers whose run outlives the trainer, and how it is ended."""
