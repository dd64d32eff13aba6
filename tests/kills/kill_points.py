"""Where a run can be killed: a function, and whether just before or just after it.

The functions belong to the product or to a library; nothing in the product knows of them.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A place in the code."""

    module: str
    function: str
    """Dotted where it belongs to a class."""
    after: bool = False


_TRAINER = "transformers.trainer"
_LLAMA = "transformers.models.llama.modeling_llama"
POINTS = {
    "inside a step: before backward": Point("accelerate", "Accelerator.backward"),
    "inside a step: before the optimizer": Point(
        "lorapar_core.masked_optimizer", "MaskedOptimizer.step"
    ),
    "inside a step: after the optimizer": Point(
        "lorapar_core.masked_optimizer", "MaskedOptimizer.step", after=True
    ),
    "while accumulating": Point(_TRAINER, "Trainer.training_step", after=True),
    "inside a forward pass": Point(_LLAMA, "LlamaModel.forward", after=True),
    "while generating: before": Point("trl", "GRPOTrainer._generate_and_score_completions"),
    "while generating: after": Point(
        "trl", "GRPOTrainer._generate_and_score_completions", after=True
    ),
    "at an epoch's begin": Point("transformers.trainer_callback", "CallbackHandler.on_epoch_begin"),
    "at an epoch's end": Point("transformers.trainer_callback", "CallbackHandler.on_epoch_end"),
    "writing a checkpoint: before": Point("lorapar_core.checkpoints", "keep"),
    "writing a checkpoint: its files": Point("lorapar_core.resume", "save_state"),
    "writing a checkpoint: no manifest": Point("lorapar_core.checkpoints", "_seal"),
    "writing a checkpoint: on the disk": Point("lorapar_core.checkpoints", "sync", after=True),
    "writing a checkpoint: removing the old": Point("lorapar_core.checkpoints", "_remove"),
    "keeping a checkpoint: before": Point("artifacts", "Store.keep_checkpoint"),
    "publishing: an object": Point("artifacts.intake", "Intake._install"),
    "publishing: after an object": Point("artifacts.intake", "Intake._install", after=True),
    "publishing: a document": Point("artifacts.durable", "temporary"),
    "publishing: dropping objects": Point("artifacts.objects", "Objects.remove"),
    "publishing: before": Point("artifacts", "Store.publish"),
    "publishing: the record": Point("artifacts.store", "write_record"),
    "publishing: after the record": Point("artifacts.store", "write_record", after=True),
    "publishing: after": Point("artifacts", "Store.publish", after=True),
}


def arm(name: str, *, nth: int, number: int = signal.SIGKILL) -> None:
    """Have this process signalled when it comes to the point for the `nth` time (from 1)."""
    point = POINTS[name]
    owner: Any = importlib.import_module(point.module)
    *classes, function = point.function.split(".")
    for part in classes:
        owner = getattr(owner, part)
    killing = _killing(getattr(owner, function), nth=nth, after=point.after, number=number)
    setattr(owner, function, killing)


def _killing(
    function: Callable[..., Any], *, nth: int, after: bool, number: int
) -> Callable[..., Any]:
    came = 0

    @functools.wraps(function)  # who looks at its signature sees the same
    def killing(*arguments: Any, **named: Any) -> Any:
        nonlocal came
        came += 1
        if came == nth and not after:
            os.kill(os.getpid(), number)
        result = function(*arguments, **named)
        if came == nth and after:
            os.kill(os.getpid(), number)
        return result

    return killing
