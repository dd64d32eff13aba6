"""Completions that can't be drawn again, on disk before they are used.

vLLM draws from a random state of its own, which nobody can save: a stage that was killed would
train on other completions than it had, on the way back to where it was. So each process writes what
it was given, whole, before it trains on it, and takes that instead when it comes there again:

    <scratch>/rollouts/rank-0-of-2/generation-00000003-step-00000012/rollouts.{json,safetensors}

with a digest of the prompts' tokens, the completions, their log-probabilities as vLLM has
them, and this process's random state when they were there. An entry stays while a kept checkpoint
may still come before it. One that doesn't follow from where the run goes on is dropped: what comes
after a generation that was drawn anew, or everything, where another worker's checkpoint is newer.

All processes replay a generation, or all draw it anew: an engine answers them together. Nobody can
have trained on one that not everybody had written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lorapar_core import ranks
from lorapar_core.checkpoints import KEPT, MANIFEST, Checkpoint, sync
from lorapar_core.errors import TrainingError
from lorapar_core.journal import CHECKPOINTS, Journal
from lorapar_core.merged_weights import merged_weights
from lorapar_core.random_state import random_state, set_random_state
from lorapar_core.state_files import load_state, save_state

if TYPE_CHECKING:
    from lorapar_core.spec import Spec

ROLLOUTS = "rollouts"
_LOG = logging.getLogger(__name__)

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What one process was given in one generation."""

    completions: list[list[int]]
    """Tokens of each."""
    log_probabilities: list[list[float | None]] | None
    """Of each token, by the engine that drew it; None where it has none."""
    random: dict[str, Any]
    """This process's random state afterwards: an engine within it may have drawn from it."""


class RolloutLog:
    """One process's generations, by number."""

    def __init__(self, folder: Path, *, checkpoints: Path) -> None:
        self._folder = folder
        self._checkpoints = checkpoints
        folder.mkdir(parents=True, exist_ok=True)
        for left in (*folder.glob(".partial-*"), *folder.glob(".old-*")):  # of a killed process
            shutil.rmtree(left)

    def find(self, generation: int, *, prompts: Tokens) -> Rollouts | None:
        """That generation's; None if it isn't there, or can't be read.

        Raises:
            TrainingError: it is of other prompts.
        """
        entry = next(self._folder.glob(f"{_name(generation)}-*"), None)
        if entry is None:
            return None
        try:
            found = load_state(entry, ROLLOUTS)
            of, rollouts = found["prompts"], Rollouts(**found["rollouts"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = f"{type(error).__name__}: {error}"
            _LOG.warning("%s can't be read and is drawn anew (%s)", entry, why)
            return None
        if of != prompt_digest(prompts):
            raise TrainingError(
                f"{entry} is of other prompts ({of[:12]}, these are {prompt_digest(prompts)[:12]});"
                " it is no log of this stage, or data and order have changed: remove it"
            )
        return rollouts

    def keep(self, generation: int, *, step: int, prompts: Tokens, rollouts: Rollouts) -> None:
        """Write that generation, drawn when `step` optimizer steps were done.

        Raises:
            TrainingError: the disk refuses.
        """
        entry = self._folder / f"{_name(generation)}-step-{step:08}"
        partial = self._folder / f".partial-{os.getpid()}-{os.urandom(4).hex()}"
        state = {
            "prompts": prompt_digest(prompts),
            "rollouts": {
                "completions": rollouts.completions,
                "log_probabilities": rollouts.log_probabilities,
                "random": rollouts.random,
            },
        }
        try:
            for later in self._entries():
                if later.name >= _name(generation):  # of another past
                    _remove(later)
            partial.mkdir()
            save_state(partial, ROLLOUTS, state)
            for path in (*partial.iterdir(), partial):
                sync(path)
            partial.rename(entry)
            sync(self._folder)
        except OSError as error:
            raise TrainingError(
                f"generation {generation} can't be written to {self._folder} "
                f"({error.strerror or error}); see to the disk and run it again: it goes on from "
                "the last checkpoint"
            ) from error

    def drop_before_checkpoints(self) -> None:
        """Remove what came before the oldest kept checkpoint, once there are as many as stay."""
        kept = sorted(_step(path) for path in self._checkpoints.glob("step-*"))
        for entry in self._entries():
            if len(kept) >= KEPT and _step(entry) < kept[0]:
                _remove(entry)

    def follow(self, past: str) -> None:
        """The run goes on from another worker's checkpoint, of digest `past`: remove every
        generation, unless they were drawn after that very one."""
        followed = self._folder / "followed"
        if followed.exists() and followed.read_text() == past:
            return
        for entry in self._entries():
            _remove(entry)
        followed.write_text(past)

    def _entries(self) -> list[Path]:
        return sorted(self._folder.glob("generation-*"))


def _name(generation: int) -> str:
    return f"generation-{generation:08}"


def _step(path: Path) -> int:
    """The step that its name ends with."""
    return int(path.name.rpartition("-")[2])


def _remove(entry: Path) -> None:
    """Take it away whole."""
    hidden = entry.with_name(f".old-{os.getpid()}-{os.urandom(4).hex()}")
    entry.rename(hidden)
    shutil.rmtree(hidden)


def open_log(spec: Spec, journal: Journal) -> RolloutLog:
    """This process's log; empty where it isn't of the run's own past."""
    checkpoints, folder = spec.scratch / CHECKPOINTS, spec.scratch / ROLLOUTS
    among = f"-of-{ranks.world()}"
    if ranks.rank() == 0:
        for other in folder.glob("rank-*"):
            if not other.name.endswith(among):
                shutil.rmtree(other)
    log = RolloutLog(folder / f"rank-{ranks.rank()}{among}", checkpoints=checkpoints)
    if journal.begun and not _made_here(journal.begun, checkpoints):
        log.follow(hashlib.sha256(_manifest(journal.begun.path)).hexdigest())
    return log


def _made_here(begun: Checkpoint, checkpoints: Path) -> bool:
    """Whether it is one of these: the store has the same, and gives them to other workers."""
    return _manifest(checkpoints / f"step-{begun.step:08}") == _manifest(begun.path)


def _manifest(checkpoint: Path) -> bytes:
    """Its content, by which checkpoints are told apart; nothing where there is none."""
    path = checkpoint / MANIFEST
    return path.read_bytes() if path.exists() else b""


def prompt_digest(prompts: Tokens) -> str:
    """sha256 of the prompts' tokens, in order."""
    return hashlib.sha256(json.dumps([list(tokens) for tokens in prompts]).encode()).hexdigest()


class ReplayedRollouts:
    """Mixin for trl's GRPO trainer: with a log, a generation that is in it isn't drawn again."""

    rollouts: RolloutLog | None = None

    def sample_elsewhere(self, log: RolloutLog) -> None:
        """Log generations, and give vLLM its weights without touching ours."""
        trainer: Any = self
        self.rollouts = log
        trainer.vllm_generation._iter_named_params = lambda: merged_weights(trainer.model)

    def _generate_single_turn(self, prompt_ids: Tokens, *arguments: Any, **named: Any) -> Any:
        trainer: Any = self
        draw: Any = super()
        if self.rollouts is None:
            return draw._generate_single_turn(prompt_ids, *arguments, **named)
        every = trainer.args.steps_per_generation * trainer.num_iterations
        generation = trainer._step // every
        found = self.rollouts.find(generation, prompts=prompt_ids)
        (anew,) = ranks.any_of(found is None)
        if found is None or anew:
            ids, chances = draw._generate_single_turn(prompt_ids, *arguments, **named)
            found = Rollouts(_plain(ids, int), chances and _plain(chances, float), random_state())
            step = trainer.state.global_step
            self.rollouts.keep(generation, step=step, prompts=prompt_ids, rollouts=found)
        else:
            _LOG.info("generation %d is replayed from the log of rollouts", generation)
            set_random_state(found.random)
        return found.completions, found.log_probabilities

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.rollouts is not None:
            self.rollouts.drop_before_checkpoints()


def _plain(rows: Sequence[Sequence[Any]], kind: type) -> list[list[Any]]:
    """Python's own numbers, and None: what a log can hold."""
    return [[None if value is None else kind(value) for value in row] for row in rows]
