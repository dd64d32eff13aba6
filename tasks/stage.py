"""The one place where core and store meet: look up, lock, look again, run, publish."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from artifacts import CorruptObject, MissingObject, Record, Ref, Store
from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import Stopped
from lorapar_core.process import thread_count
from lorapar_core.spec import Spec
from lorapar_core.surroundings import installed_version, processor
from tasks.action import Action, External, Outcome
from tasks.children import Children

Listener = Callable[[Mapping[str, Any]], None]
_log = logging.getLogger("lorapar.stage")
_LIBRARIES = ("torch", "transformers", "peft", "trl", "litellm", "datasets")


def look_up(action: Action, store: Store) -> Outcome | None:
    """The action's outcome if the store has it whole, else None."""
    record = store.lookup(action.key) if action.key else None
    return _outcome(record, action, "cached", 0.0) if record else None


def perform(
    action: Action, *, store: Store, children: Children, runtime: RuntimeConfig, listen: Listener
) -> Outcome:
    """The action's outcome, computed if the store doesn't have it.

    Raises:
        LoraparError: what the stage says.
        StoreError: an input is corrupt or gone, or the result can't be written.
    """
    found = look_up(action, store)
    if found:
        return found
    if action.key is None:
        raise ValueError(f"{action.name} has inputs that nobody has computed")
    with store.lock(action.key, waiting=_Waiting(action.name, children, listen)):
        found = look_up(action, store)  # whoever held the lock may have computed it
        if found:
            return found
        record = _compute(action, action.key, store, children, runtime, listen)
    return _outcome(record, action, "computed", record.provenance["seconds"])


class _Waiting:
    """While another run computes the same: says so once, and ends with its own run."""

    after_s = 5.0

    def __init__(self, name: str, children: Children, listen: Listener) -> None:
        self._name, self._children, self._listen = name, children, listen
        self._say_at: float | None = time.monotonic() + self.after_s

    def __call__(self) -> None:
        if self._children.closed:
            raise Stopped(f"{self._name}: no longer waited for, the run has ended")
        if self._say_at and time.monotonic() > self._say_at:
            self._say_at = None
            message = "another run is computing this; waiting for it"
            level = logging.WARNING
            self._listen({"event": "log", "logger": "lorapar", "level": level, "message": message})


def _compute(
    action: Action,
    key: str,
    store: Store,
    children: Children,
    runtime: RuntimeConfig,
    listen: Listener,
) -> Record:
    scratch = store.scratch(key)
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)  # what a killed run left half-written
    out.mkdir(parents=True)
    inputs = {**action.inputs, **action.reads}
    digests = {role: str(value.digest) for role, value in inputs.items()}
    paths = {role: _path(value, store) for role, value in inputs.items()}
    spec = Spec(
        stage=action.stage,
        name=action.name,
        config=action.config,
        inputs=paths,
        scratch=scratch,
        runtime=runtime,
        digests=digests,
        site=action.site,
        checkpoints=_checkpoints(key, store),
        ledger=store.ledger(action.ledger) if action.ledger else None,
    )
    commit = code_commit()  # before it runs: the files may be edited meanwhile
    keeper = _Keeper(key, store, listen)
    seconds = children.run(spec, out, place=action.place, listen=keeper)
    record = store.publish(
        out,
        key=key,
        stage=action.stage,
        name=action.name,
        version=action.version,
        config=action.config,
        inputs=digests,
        provenance={
            **provenance(action, runtime, seconds=seconds, commit=commit),
            "footprint": keeper.footprint,
            "resumed": keeper.history,
        },
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return record


def _checkpoints(key: str, store: Store) -> tuple[Path, ...]:
    """Where this store's checkpoints of the action lie, for a worker that didn't make them."""
    found = []
    for checkpoint in store.checkpoints(key):
        try:
            found.append(store.path(checkpoint.ref))
        except (CorruptObject, MissingObject) as error:
            _log.warning("the checkpoint of step %d is left out: %s", checkpoint.step, error)
    return tuple(found)


class _Keeper:
    """Puts a stage's checkpoints into the store as they come, and passes on the rest."""

    def __init__(self, key: str, store: Store, listen: Listener) -> None:
        self._key, self._store, self._listen = key, store, listen
        self.history: list[Any] = []
        """From which steps the stage has gone on."""
        self.footprint: dict[str, Any] = {}
        """What it took of the machine: of several processes the largest figure of each kind."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "checkpoint":
            self._keep(Path(event["path"]), event["step"])
        elif event["event"] == "resumed":
            self.history = event["history"]
        elif event["event"] == "footprint":
            self._add_footprint(event)
        else:
            self._listen(event)

    def _add_footprint(self, event: Mapping[str, Any]) -> None:
        for name, value in event.items():
            if isinstance(value, int | float):
                value = max(value, self.footprint.get(name, value))
            if name != "event":
                self.footprint[name] = value

    def _keep(self, source: Path, step: int) -> None:
        writer = {"host": platform.node(), "pid": os.getpid(), "unix": round(time.time(), 3)}
        try:
            self._store.keep_checkpoint(self._key, source, step=step, writer=writer)
        except FileNotFoundError:
            _log.debug("the checkpoint of step %d was overtaken by later ones", step)


def _path(value: Ref | External, store: Store) -> Path:
    if isinstance(value, Ref):
        return store.path(value)
    if value.path is None:
        raise ValueError("an input outside the store has no path")
    return value.path


def _outcome(
    record: Record, action: Action, how: Literal["cached", "computed"], seconds: float
) -> Outcome:
    return Outcome(action.name, action.stage, record.key, how, seconds, record.outputs)


def provenance(
    action: Action, runtime: RuntimeConfig, *, seconds: float, commit: str | None
) -> dict[str, Any]:
    """Where, when and with what a record was made; part of no key."""
    outside = {
        role: str(value.path)
        for role, value in action.inputs.items()
        if isinstance(value, External) and value.path
    }
    return {
        "finished_unix": round(time.time(), 3),
        "seconds": round(seconds, 3),
        "commit": commit,
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": thread_count(runtime),
        "nodes": runtime.nodes,
        "processes": runtime.processes,
        "sharding": runtime.sharding,
        "device": runtime.device,
        "executable": sys.executable,
        "libraries": {name: installed_version(name) for name in ("lorapar", *_LIBRARIES)},
        "external_inputs": outside,
    }


def code_commit() -> str | None:
    """The git commit of this checkout, `-dirty` where it was changed; None outside one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # it may lie in somebody else's
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
