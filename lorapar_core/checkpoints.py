"""Checkpoints on disk: written whole, believed only when whole.

    <folder>/step-00000012/manifest.json    step, total, identity, surroundings, digests; last
                           ...              whatever the trainer needs to go on

A checkpoint is filled under another name, brought to the disk, given its manifest, and renamed. A
process killed on the way leaves a folder that nobody reads. What is read later may still have been
torn, by a power cut or a copy that ended early: a checkpoint counts only if its manifest can be
read and every digest in it holds, and otherwise the one before it serves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorapar_core.errors import TrainingError

MANIFEST = "manifest.json"
FORMAT = 1
KEPT = 2
"""Checkpoints that stay: the newest may turn out torn."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    step: int
    """Optimizer steps done."""
    total: int
    """Optimizer steps of the whole stage."""
    identity: str
    """Digest of what is trained: a checkpoint of something else is none."""
    surroundings: Mapping[str, Any]
    """What the rounding depends on, where it was made."""
    history: tuple[Mapping[str, Any], ...]
    """Each resume that came before it."""

    @property
    def name(self) -> str:
        """Its step, and what tells it from others of that step."""
        digest = hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()
        return f"step {self.step} ({digest[:12]})"


def keep(
    folder: Path,
    *,
    fill: Callable[[Path], None],
    step: int,
    total: int,
    identity: str,
    surroundings: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Have `fill` write its files into a directory, and make that the checkpoint of `step`.

    All but the newest `KEPT` go.

    Raises:
        TrainingError: the disk refuses. What was kept before stands.
    """
    partial = folder / f".partial-{os.getpid()}-{os.urandom(4).hex()}"
    target = folder / f"step-{step:08}"
    try:
        partial.mkdir()  # its parent is there, or the disk has gone away
        fill(partial)
        facts = {
            "format": FORMAT,
            "step": step,
            "total": total,
            "identity": identity,
            "surroundings": dict(surroundings),
            "history": [dict(entry) for entry in history],
        }
        _seal(partial, facts)
        if target.exists():  # torn, or of a run that went on from before it
            _remove(target)
        partial.rename(target)
        sync(folder)
    except OSError as error:
        raise TrainingError(
            f"the checkpoint of step {step} can't be written to {folder} "
            f"({error.strerror or error}); see to the disk and run it again: it goes on from the "
            "checkpoint before"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    found = sorted(folder.glob("step-*"))
    beyond = [path for path in found if path > target]  # left out, or we wouldn't stand here
    before = [path for path in found if path < target]  # none where the store has just gone away
    for path in [*before[: max(0, len(before) + 1 - KEPT)], *beyond]:
        _remove(path)
    return target


def prepare(folder: Path) -> None:
    """Make the folder, and remove what a killed process left half written or half removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob(".partial-*"), *folder.glob(".old-*")):
        shutil.rmtree(left)


def _remove(checkpoint: Path) -> None:
    """Take it away whole: whoever reads it finds all of it, or nothing."""
    hidden = checkpoint.with_name(f".old-{os.getpid()}-{os.urandom(4).hex()}")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _seal(directory: Path, facts: Mapping[str, Any]) -> None:
    """Bring every file to the disk, and then a manifest with their digests."""
    files = {}
    for path in sorted(directory.iterdir()):
        files[path.name] = _digest(path)
        sync(path)
    (directory / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=1))
    sync(directory / MANIFEST)
    sync(directory)


def sync(path: Path) -> None:
    """Bring a file, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest(folder: Path, *, identity: str, others: Iterable[Path] = ()) -> Checkpoint | None:
    """The newest whole checkpoint in `folder` or among `others`; torn ones are named in the log.

    Raises:
        TrainingError: a checkpoint is of something else than `identity`.
    """
    for path in _newest_first([*folder.glob("step-*"), *others]):
        found = read(path)
        if found is None:
            continue
        if found.identity != identity:
            raise TrainingError(
                f"the checkpoint {path} is of another stage or recipe ({found.identity[:12]}, this "
                f"is {identity[:12]}); give another scratch directory"
            )
        return found
    return None


def _newest_first(paths: Iterable[Path]) -> Iterator[Path]:
    """By the step that the manifest tells; those that tell none come first, to be named."""
    dated = []
    for path in paths:
        step = math.inf
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):  # `read` says why
            step = int(json.loads((path / MANIFEST).read_text())["step"])
        dated.append((step, str(path)))
    yield from (Path(path) for _, path in sorted(dated, reverse=True))


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in `path` if it is whole; else None, and a warning says why."""
    try:
        facts = json.loads((path / MANIFEST).read_text())
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']}, expected {FORMAT}")
        for name, digest in facts["files"].items():
            if _digest(path / name) != digest:
                raise ValueError(f"{name} has changed")
        return Checkpoint(
            path=path,
            step=int(facts["step"]),
            total=int(facts["total"]),
            identity=str(facts["identity"]),
            surroundings=dict(facts["surroundings"]),
            history=tuple(facts["history"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        _LOG.warning(
            "checkpoint %s is not whole and is left out (%s: %s); the one before it serves",
            path.name,
            type(error).__name__,
            error,
        )
        return None
