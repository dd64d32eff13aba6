"""Training that may be killed at any moment and ends with the same bytes.

A trainer of transformers writes its state as pickles, straight into their final place, and leaves
out what trl adds: GRPO's count of micro-batches, its completions not yet used up, and the order of
its second epoch (its sampler draws on from a generator that nobody saves). `ExactResume` writes all
of it, through `checkpoints` and `state_files`, at the end of an optimizer step, when no gradient is
under way and no batch half done:

    state       adapter, optimizer, schedule, and what trl counts
    rank-0 …    each process's random state and its completions not yet used up
    trainer_state.json, and what the stage has written so far

Nothing here draws a random number, so how often a checkpoint is kept changes no result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PrinterCallback, TrainerCallback

from lorapar_core import ranks
from lorapar_core.errors import Stopped, TrainingError
from lorapar_core.journal import Journal, alone_with_checkpoints, refused_by_disk
from lorapar_core.launch import train_in_ranks
from lorapar_core.loading import adapter_parameters, set_weights
from lorapar_core.nodes import train_on_nodes
from lorapar_core.random_state import random_state, set_random_state
from lorapar_core.spec import Spec
from lorapar_core.state_files import load_state, save_state
from lorapar_core.stopping import StopRequest, stop_request
from lorapar_core.trackers import own_runs

TRAINER_STATE = "trainer_state.json"  # where transformers looks for it
COUNTS = ("_step", "_total_train_tokens")
"""Of trl's trainers, where they have them."""


class Gathered(Protocol):
    """What a stage gathers while it trains, and writes at its end."""

    def collect(self) -> None:
        """Have rank 0 take what other ranks gathered; every rank calls it at the same time."""

    def save(self, folder: Path) -> None:
        """Write what was gathered so far into `folder`; rank 0 does."""

    def load(self, folder: Path) -> None:
        """Begin with what `save` wrote."""


def run_training(spec: Spec, out: Path, train: Callable[[Spec, Journal, Path], None]) -> None:
    """Train here, in several processes or on several nodes, with the checkpoints to ourselves.

    Raises:
        TrainingError: there is a checkpoint of another stage, or that was made in other
            surroundings; or as `train` says.
    """
    try:
        if not ranks.started() and spec.runtime.nodes > 1:
            train_on_nodes(spec, out)  # where node 0 has the checkpoints to itself
            return
        with nullcontext() if _looked_after() else alone_with_checkpoints(spec):
            if ranks.started() or spec.runtime.processes == 1:
                with own_runs(spec.runtime.trackers):
                    train(spec, Journal(spec), out)
                ranks.part()  # one that has failed leaves by ending: the others must not hear first
            else:
                train_in_ranks(spec, out)
    except OSError as error:
        raise refused_by_disk(spec, error) from error


def _looked_after() -> bool:
    """Whether another process keeps others away from the checkpoints: our launcher, or rank 0."""
    return ranks.LAUNCHED in os.environ or ranks.rank() > 0


class ExactResume:
    """Mixin for a trl trainer: it goes on from our checkpoints, and keeps them."""

    journal: Journal
    _state: Any = None
    gathered: Sequence[Gathered]

    def train_to_the_end(self) -> None:
        """Train from the journal's checkpoint, or from the start.

        Raises:
            Stopped: somebody asked for it; a checkpoint was kept.
            TrainingError: as the trainer says.
        """
        trainer: Any = self
        begun = self.journal.begun
        _require_one_start(begun.name if begun else "none")
        if begun and begun.step >= begun.total:  # killed after its last step
            self._load_from_checkpoint(str(begun.path))
            self._load_gathered(begun.path)
            return
        with stop_request() as stop:
            when = _WhenToKeep(self.journal, stop)
            trainer.remove_callback(PrinterCallback)  # it tells again what `Figures` reports
            trainer.add_callback(when)
            trainer.train(resume_from_checkpoint=str(begun.path) if begun else None)
        step, total = trainer.state.global_step, trainer.state.max_steps
        if when.stopped and step < total:
            raise Stopped(f"stopped after step {step} of {total}; it goes on from there")

    def _save_into(self, folder: Path, own: Sequence[Any]) -> None:
        """Write everything that the next step depends on; `own` is what each rank has of its
        own."""
        trainer: Any = self
        state = {
            "adapter": adapter_parameters(trainer.accelerator.unwrap_model(trainer.model)),
            "optimizer": trainer.optimizer.state_dict(),
            "schedule": trainer.lr_scheduler.state_dict(),
            "counts": {name: getattr(self, name) for name in COUNTS if hasattr(self, name)},
        }
        save_state(folder, "state", state)
        for rank, part in enumerate(own):
            save_state(folder, f"rank-{rank}", part)
        trainer.state.save_to_json(str(folder / TRAINER_STATE))
        for part in self.gathered:
            part.save(folder)

    # What follows is called by transformers' Trainer, in this order.

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        self._state = load_state(Path(checkpoint), "state")
        set_weights(adapter_parameters(model or trainer.model), self._state["adapter"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        trainer: Any = self
        state, self._state = self._state, None
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.lr_scheduler.load_state_dict(state["schedule"])
        for name, value in state["counts"].items():
            setattr(self, name, value)
        own = self._own(Path(checkpoint))
        if own and own["rollouts"] is not None:
            trainer._buffered_inputs = _moved(own["rollouts"], trainer.args.device)
        self._load_gathered(Path(checkpoint))

    def _load_gathered(self, folder: Path) -> None:
        if ranks.rank() == 0:
            for part in self.gathered:
                part.load(folder)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        own = self._own(Path(checkpoint)) if checkpoint is not None else None
        if own:
            set_random_state(own["random"])

    def _own(self, folder: Path) -> Any:
        """What this rank had of its own; nothing where there were more ranks, or fewer."""
        same = self.journal.same_processes
        return load_state(folder, f"rank-{ranks.rank()}") if same else None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        rollouts = getattr(self, "_buffered_inputs", None)
        own = ranks.gather({"random": random_state(), "rollouts": _moved(rollouts, "cpu")})
        for part in self.gathered:
            part.collect()
        if ranks.rank() == 0:
            state = self.state  # type: ignore[attr-defined]
            fill = partial(self._save_into, own=own)
            self.journal.keep(fill, step=state.global_step, total=state.max_steps)


def _require_one_start(name: str) -> None:
    """Refuse processes that go on from different checkpoints, as a network file system's cache can
    show them.

    Raises:
        TrainingError: as said.
    """
    found = ranks.everywhere(name)
    if len({*found}) > 1:
        raise TrainingError(
            f"the {len(found)} processes found different checkpoints: {', '.join(found)}; the "
            "shared file system showed some of them an older state: run it again"
        )


class _WhenToKeep(TrainerCallback):
    """Asks for a checkpoint when one is due, before a stop that was asked for, and at the end."""

    def __init__(self, journal: Journal, stop: StopRequest) -> None:
        self._every_s = journal.every_s
        self._stop = stop
        self._last = time.monotonic()
        self.stopped = False
        """Whether some process was asked to end."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        late = time.monotonic() - self._last >= self._every_s
        due, self.stopped = ranks.any_of(late, self._stop.made)
        last = state.global_step >= state.max_steps
        control.should_save = due or last or self.stopped
        control.should_training_stop |= self.stopped

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.monotonic()


def _moved(value: Any, where: torch.device | str) -> Any:
    """Tensors on `where`, in the same lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(where)
    if isinstance(value, dict):
        return {key: _moved(part, where) for key, part in value.items()}
    return [_moved(part, where) for part in value] if isinstance(value, list) else value
