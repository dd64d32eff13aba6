"""The checkpoints of one training stage: which one it goes on from, and how the next is kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorapar_core import checkpoints, events
from lorapar_core.checkpoints import Checkpoint
from lorapar_core.errors import TrainingError
from lorapar_core.sole import sole_trainer
from lorapar_core.spec import Spec
from lorapar_core.surroundings import Surroundings, difference, require_same, surroundings

_LOG = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
"""Their folder in a stage's scratch."""


@contextmanager
def alone_with_checkpoints(spec: Spec) -> Iterator[None]:
    """Keep other trainers of the stage waiting; what a killed one left half written is gone."""
    with sole_trainer(spec.scratch):
        checkpoints.prepare(spec.scratch / CHECKPOINTS)
        yield


def refused_by_disk(spec: Spec, error: OSError) -> TrainingError:
    """What to say of it."""
    return TrainingError(
        f"{spec.name} can't read or write what it has to ({error}); see to the disk and run it "
        "again: it goes on from its checkpoint"
    )


class Journal:
    """`begun` is the checkpoint that the stage goes on from, None where it starts anew.

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
        name = self._spec.name
        _LOG.warning("%s goes on from the checkpoint of step %d%s", name, begun.step, how)

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
