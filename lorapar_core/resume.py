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

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from lorapar_core import checkpoints, events, ranks
from lorapar_core.checkpoints import Checkpoint
from lorapar_core.errors import Stopped
from lorapar_core.launch import train_in_ranks
from lorapar_core.loading import adapter_parameters
from lorapar_core.sole import sole_trainer
from lorapar_core.spec import Spec
from lorapar_core.state_files import load_state, save_state
from lorapar_core.stopping import StopRequest, stop_request
from lorapar_core.surroundings import Surroundings, difference, require_same, surroundings

_LOG = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
TRAINER_STATE = "trainer_state.json"  # where transformers looks for it
COUNTS = ("_step", "_total_train_tokens")
"""Of trl's trainers, where they have them."""


class Kept(Protocol):
    """What a stage gathers while it trains, and writes at its end."""

    def collect(self) -> None:
        """Have rank 0 take what other ranks gathered; every rank calls it at the same time."""

    def save(self, folder: Path) -> None:
        """Write what was gathered so far into `folder`; rank 0 does."""

    def load(self, folder: Path) -> None:
        """Begin with what `save` wrote."""


def run_training(spec: Spec, out: Path, train: Callable[[Spec, Journal, Path], None]) -> None:
    """Train here, or in several processes, with the stage's checkpoints to ourselves.

    Raises:
        TrainingError: there is a checkpoint of another stage, or that was made in other
            surroundings; or as `train` says.
    """
    if ranks.started():  # whoever started us sees to the rest
        try:
            train(spec, Journal(spec), out)
        finally:
            ranks.part()
        return
    with sole_trainer(spec.scratch):
        checkpoints.sweep(spec.scratch / CHECKPOINTS)
        if spec.runtime.nodes * spec.runtime.processes > 1:
            train_in_ranks(spec, out)
        else:
            train(spec, Journal(spec), out)


class Journal:
    """The checkpoints of one stage: which one it goes on from, and how the next is kept.

    Raises:
        TrainingError: the newest is of another stage, or was made in other surroundings.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._folder = spec.scratch / CHECKPOINTS
        self._identity = identity(spec)
        self._surroundings: Surroundings = surroundings(spec.runtime)
        self._history: tuple[Any, ...] = ()
        self.every_s = spec.runtime.checkpoint_s
        self.begun: Checkpoint | None = checkpoints.newest(
            self._folder, identity=self._identity, others=spec.checkpoints
        )
        if self.begun:
            inexact = spec.runtime.resume == "inexact"
            require_same(self.begun, self._surroundings, inexact=inexact)
            self._resume(self.begun)

    def _resume(self, begun: Checkpoint) -> None:
        differs = difference(begun.surroundings, self._surroundings)
        entry = {"step": begun.step, "exact": not differs, "differs": differs}
        self._history = (*begun.history, entry)
        events.resumed(self._history)
        how = "" if not differs else f", in other surroundings: {', '.join(differs)}"
        _LOG.info("%s goes on from the checkpoint of step %d%s", self._spec.name, begun.step, how)

    @property
    def same_processes(self) -> bool:
        """Whether as many processes train as did before."""
        made = self.begun.surroundings if self.begun else self._surroundings
        return bool(made["processes"] == self._surroundings["processes"])

    def keep(self, fill: Callable[[Path], None], *, step: int, total: int) -> None:
        """Keep a checkpoint with the files that `fill` writes, and say so.

        Raises:
            TrainingError: the disk refuses.
        """
        path = checkpoints.keep(
            self._folder,
            fill=fill,
            step=step,
            total=total,
            identity=self._identity,
            surroundings=self._surroundings,
            history=self._history,
        )
        events.checkpoint(step=step, path=path)


def identity(spec: Spec) -> str:
    """Digest of what is trained, on what: the stage, its config and its inputs' digests."""
    facts = {"stage": spec.stage, "config": spec.config, "inputs": dict(spec.digests)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class ExactResume:
    """Mixin for a trl trainer: it goes on from our checkpoints, and keeps them."""

    journal: Journal
    kept: Sequence[Kept]

    def train_to_the_end(self) -> None:
        """Train from the journal's checkpoint, or from the start.

        Raises:
            Stopped: somebody asked for it; a checkpoint was kept.
            TrainingError: as the trainer says.
        """
        trainer: Any = self
        begun = self.journal.begun
        if begun and begun.step >= begun.total:  # killed after its last step
            self._load_from_checkpoint(str(begun.path))
            self._load_kept(begun.path)
            return
        with stop_request() as stop:
            trainer.remove_callback(PrinterCallback)  # it tells again what `Figures` reports
            trainer.add_callback(_Keeping(self.journal, stop))
            trainer.train(resume_from_checkpoint=str(begun.path) if begun else None)
        step, total = trainer.state.global_step, trainer.state.max_steps
        if step < total:
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
        for kept in self.kept:
            kept.save(folder)

    # What follows is called by transformers' Trainer, in this order.

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        saved = load_state(Path(checkpoint), "state")["adapter"]
        with torch.no_grad():
            for key, parameter in adapter_parameters(model or trainer.model).items():
                parameter.copy_(saved[key])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        trainer: Any = self
        state = load_state(Path(checkpoint), "state")
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.lr_scheduler.load_state_dict(state["schedule"])
        for name, value in state["counts"].items():
            setattr(self, name, value)
        own = self._own(Path(checkpoint))
        if own and own["rollouts"] is not None:
            trainer._buffered_inputs = _moved(own["rollouts"], trainer.args.device)
        self._load_kept(Path(checkpoint))

    def _load_kept(self, folder: Path) -> None:
        if ranks.rank() == 0:
            for kept in self.kept:
                kept.load(folder)

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
        for kept in self.kept:
            kept.collect()
        if ranks.rank() == 0:
            state = self.state  # type: ignore[attr-defined]
            fill = partial(self._save_into, own=own)
            self.journal.keep(fill, step=state.global_step, total=state.max_steps)


class _Keeping(TrainerCallback):
    """Asks for a checkpoint when one is due, before a stop that was asked for, and at the end."""

    def __init__(self, journal: Journal, stop: StopRequest) -> None:
        self._every_s = journal.every_s
        self._stop = stop
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = ranks.any_of(time.monotonic() - self._last >= self._every_s)
        last = state.global_step >= state.max_steps
        stop = ranks.any_of(self._stop.made)
        control.should_save = due or last or stop
        control.should_training_stop |= stop

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._last = time.monotonic()


def random_state() -> dict[str, Any]:
    """This process's, as `save_state` can write it."""
    numpy: Any = np.random.get_state()  # noqa: NPY002  whatever a library draws from
    name, keys, place, has_gauss, gauss = numpy
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), place, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Be where `random_state` was."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _moved(value: Any, where: torch.device | str) -> Any:
    """Tensors on `where`, in the same lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(where)
    if isinstance(value, dict):
        return {key: _moved(part, where) for key, part in value.items()}
    return [_moved(part, where) for part in value] if isinstance(value, list) else value
