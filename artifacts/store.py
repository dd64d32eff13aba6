"""The store: actions have records, records name objects, and a present record means "complete".

    <root>/cas/ab/<sha256>      objects, read-only            see objects.py and intake.py
    <root>/actions/<key>.json   records, written last         see records.py
    <root>/views/<sha256>/      directory objects, laid out   see views.py
    <root>/locks/               one file a key, never deleted see lock.py
    <root>/runs/<name>.json     what a run made, by name
    <root>/progress/<key>.json  checkpoints of work in progress see progress.py
    <root>/ledgers/<sha256>     what was paid for, appended to and never removed
    <root>/scratch/<key>/       work in progress, not content
    <root>/quarantine/, tmp/    corrupt objects; files on their way

This class only puts the parts together. A process may be killed anywhere in it: it leaves no record
or a whole one, and running the action again completes it.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts.digest import check_digest, check_name, walk_files
from artifacts.durable import fsync_directory, temporary, write_whole
from artifacts.errors import MissingObject, StoreError
from artifacts.intake import Intake
from artifacts.location import VARIABLE, store_root
from artifacts.lock import locked
from artifacts.objects import Objects
from artifacts.progress import Progress, StoredCheckpoint
from artifacts.records import (
    Record,
    Ref,
    encode_record,
    read_document,
    read_record,
    read_records,
    write_record,
)
from artifacts.verify import VerifyReport, verify
from artifacts.views import Views

_log = logging.getLogger(__name__)
FOLDERS = (
    "cas",
    "actions",
    "ledgers",
    "locks",
    "progress",
    "quarantine",
    "scratch",
    "views",
    "runs",
    "tmp",
)
SHORTEST_PREFIX = 6


class Store:
    """A store on a local root; `open` is the way to get one."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        self.root = root
        self._writable = writable
        self._opened = _directory(root)
        self._actions = root / "actions"
        self._runs = root / "runs"
        self._tmp = root / "tmp"
        self._naming = root / "locks" / "naming.lock"
        self._objects = Objects(root)
        self._intake = Intake(root, self._objects)
        self._views = Views(root, self._objects)
        self._progress = Progress(root, self._objects, self._views)

    @classmethod
    def open(cls, url: str | Path | None = None, *, create: bool = True) -> "Store":
        """Open the store at `url`, else at $LORAPAR_STORE, else in the user's cache.

        With `create` its folders are made and a file is written and removed in each, so that a
        store that cannot be used is known before the work, not after it. Without, nothing is
        touched, and an absent store is one without records.

        Raises:
            StoreError: the URL has another scheme than ``file``, or the store cannot be written.
        """
        root = store_root(url)
        if create:
            try:
                _prepare(root)
            except OSError as error:
                raise StoreError(
                    f"store {root} cannot be written ({error.strerror or error}): "
                    f"make it writable, or set {VARIABLE} to a folder that is"
                ) from error
        return cls(root, writable=create)

    # Actions

    def lookup(self, key: str) -> Record | None:
        """Return the record of `key` if it and every object it names are there, else None.

        Sizes are checked, contents are not: `path` does that before anything is read.

        Raises:
            StoreError: `key` is not 64 hex characters.
        """
        record = read_record(self._actions, key)
        if record is None or not all(map(self._objects.has, record.outputs.values())):
            return None
        return record

    def lock(
        self, key: str, *, waiting: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """Return a context in which no other thread or process holds this key; not reentrant.

        Look the key up again inside: the former holder may just have published it. `waiting` is
        called again and again while somebody else holds it; what it raises ends the wait.

        Raises:
            StoreError: `key` is not 64 hex characters, or the store was opened for reading.
        """
        self._require_writable("lock")
        return locked(self.root / "locks" / f"{check_digest(key)}.lock", waiting=waiting)

    def scratch(self, key: str) -> Path:
        """Return the folder for the action's work in progress; make it if the store is writable.

        Raises:
            StoreError: `key` is not 64 hex characters.
        """
        path = self.root / "scratch" / check_digest(key)
        if self._writable:
            path.parent.mkdir(exist_ok=True)
            path.mkdir(exist_ok=True)
        return path

    def publish(
        self,
        source: Path,
        *,
        key: str,
        stage: str,
        name: str,
        version: int,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        provenance: Mapping[str, Any],
    ) -> Record:
        """Store each entry of the directory `source` as a role of that name, then the record.

        Files in this store's scratch or tmp become read-only hard links of their objects, so never
        write to them again: start anew in an empty directory. Files from elsewhere are copied and
        left as they are.

        Raises:
            StoreError: `source` is empty or holds what the store does not take, a field cannot be
                encoded, or the disk refuses. There is no new record then.
        """
        self._require_writable("publish")
        draft = Record(key, stage, name, version, config, inputs, {}, provenance)
        encode_record(draft)  # what cannot be written is refused before any bytes are moved
        try:
            with locked(self._naming, shared=True):
                outputs = {role: self._intake.put(source / role) for role in _roles(source)}
                record = write_record(self._actions, replace(draft, outputs=outputs), tmp=self._tmp)
        except OSError as error:
            raise StoreError(
                f"{name!r} cannot be published from {source} to {self.root} ({error}): "
                "see to the disk and run it again"
            ) from error
        self._drop_checkpoints(key)
        return record

    def ledger(self, digest: str) -> Path:
        """Return the file that holds what was bought under this digest; perhaps none is there yet.

        Whoever writes it appends, and holds a lock on it; artifacts are cut from it.

        Raises:
            StoreError: `digest` is not 64 hex characters.
        """
        return self.root / "ledgers" / check_digest(digest)

    # Work in progress

    def keep_checkpoint(
        self, key: str, source: Path, *, step: int, writer: Mapping[str, Any]
    ) -> None:
        """Store the directory `source` as the newest checkpoint of an action under way.

        As with `publish`, files in this store's scratch become links. `publish` of the same key
        drops all its checkpoints.

        Raises:
            StoreError: `source` holds what the store doesn't take, or the disk refuses; the
                checkpoints before it stand.
            FileNotFoundError: `source` is gone meanwhile.
        """
        self._require_writable("keep a checkpoint")
        try:
            with locked(self._naming, shared=True):
                checkpoint = StoredCheckpoint(step, self._intake.put(source), writer)
                pushed_out = self._progress.write(key, checkpoint)
            self._remove(pushed_out)
        except OSError as error:
            if self.root.is_dir() and not source.is_dir():
                raise FileNotFoundError(f"{source} is gone") from error
            raise StoreError(
                f"the checkpoint of step {step} can't be kept in {self.root} ({error}): see to the "
                "disk and run it again"
            ) from error

    def _drop_checkpoints(self, key: str) -> None:
        """After the record is there: what can't be removed is in nobody's way."""
        try:
            self._remove(self._progress.drop(key))
        except OSError as error:
            _log.warning("checkpoints of %s are left in %s: %s", key, self.root, error)

    def _remove(self, refs: list[Ref]) -> None:
        if refs:
            with locked(self._naming):
                self._progress.remove(refs, records=self.records())

    def checkpoints(self, key: str) -> list[StoredCheckpoint]:
        """Return the checkpoints of an action under way, the newest first.

        Raises:
            StoreError: `key` is not 64 hex characters.
        """
        return self._progress.read(key)

    def records(self) -> Iterator[Record]:
        """Yield all whole records, sorted by stage, name and key."""
        found = read_records(self._actions)
        yield from sorted(found, key=lambda record: (record.stage, record.name, record.key))

    # Objects

    def path(self, ref: Ref) -> Path:
        """Return where the content of `ref` can be read: a file, or a directory of hard links.

        It is hashed the first time this process asks for it. The result must not be written to.

        Raises:
            CorruptObject: its bytes, or a member's, have changed; they are in quarantine now.
            MissingObject: it, or a member, is not in the store.
            StoreError: it cannot be read, or a directory cannot be laid out.
        """
        try:
            if ref.kind == "dir":
                return self._views.path(ref.digest)
            return self._objects.verified(ref.digest)
        except FileNotFoundError as error:  # another process has just put it in quarantine
            raise MissingObject(ref.digest, str(self.root)) from error
        except OSError as error:
            raise StoreError(
                f"object {ref.digest} cannot be read from {self.root} ({error}): see to the disk"
            ) from error

    def read_json(self, ref: Ref) -> Any:
        """Return the JSON value in a file object.

        Raises:
            StoreError: as `path`, or it is a directory, or it is not JSON.
        """
        if ref.kind != "file":
            raise StoreError(f"object {ref.digest} is a directory, not a JSON file")
        try:
            return json.loads(self.path(ref).read_bytes())
        except ValueError as error:
            raise StoreError(f"object {ref.digest} is not JSON: {error}") from error

    def resolve(self, prefix: str) -> tuple[str, Ref, str]:
        """Return role, ref and record key of the one output whose digest begins with `prefix`.

        Of several records with the same output, the first in the order of `records` is named.

        Raises:
            StoreError: fewer than 6 characters, no such output, or several.
        """
        if len(prefix) < SHORTEST_PREFIX:
            raise StoreError(f"{prefix!r} is too short: give at least {SHORTEST_PREFIX} characters")
        found: dict[str, tuple[str, Ref, str]] = {}
        for record in self.records():
            for role, ref in record.outputs.items():
                if ref.digest.startswith(prefix.lower()):
                    found.setdefault(ref.digest, (role, ref, record.key))
        if not found:
            raise StoreError(f"no record in {self.root} names an object {prefix!r}")
        if len(found) > 1:
            raise StoreError(f"{prefix!r} is ambiguous: {', '.join(sorted(found))}; give more")
        return next(iter(found.values()))

    def export(self, digest: str, target: Path) -> list[Path]:
        """Copy an output into the new or empty directory `target`; return the files written.

        A directory object gives its members, a file object one file named by its role. They are
        copies with ordinary modes, so that editing them cannot harm the store.

        Raises:
            StoreError: as `resolve` and `path`, or `target` is in the way, or cannot be written.
        """
        role, ref, _ = self.resolve(digest)
        source = self.path(ref)
        files = {name: source / name for name in walk_files(source)} if ref.kind == "dir" else {}
        try:
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise StoreError(f"{target} is not an empty directory: name a new one")
            return [
                _copy_out(path, target / name)
                for name, path in sorted((files or {role: source}).items())
            ]
        except OSError as error:
            raise StoreError(f"{ref.digest} cannot be exported to {target}: {error}") from error

    def verify(self) -> VerifyReport:
        """Hash every object anew; the bad ones go to quarantine."""
        return verify(self._objects, self.records())

    # Runs

    def write_run(self, name: str, document: Mapping[str, Any]) -> Path:
        """Write what a run made under its name, replacing an earlier run of that name.

        The document keeps its order: it is told, and nothing is keyed by it.

        Raises:
            StoreError: the name or the document cannot be stored, or the disk refuses.
        """
        self._require_writable("write a run")
        path = self._runs / f"{check_name(name)}.json"
        try:
            text = json.dumps(dict(document), ensure_ascii=False, allow_nan=False)
            write_whole(path, text.encode() + b"\n", tmp=self._tmp)
        except (TypeError, ValueError, OSError) as error:
            raise StoreError(f"run {name!r} cannot be written to {path}: {error}") from error
        return path

    def runs(self) -> list[tuple[str, dict[str, Any]]]:
        """Return name and document of every whole run, the one written last first."""
        paths = [(path.stat().st_mtime_ns, path.stem, path) for path in self._runs.glob("*.json")]
        documents = ((name, read_document(path)) for _, name, path in sorted(paths, reverse=True))
        return [(name, document) for name, document in documents if document is not None]

    def _require_writable(self, what: str) -> None:
        if not self._writable:
            raise StoreError(f"cannot {what}: {self.root} was opened with create=False")
        if _directory(self.root) != self._opened:
            raise StoreError(
                f"cannot {what}: {self.root} is not the directory that was opened; it has gone "
                "away, or another lies in its place (unmounted?): bring it back and run it again"
            )


def _directory(root: Path) -> tuple[int, int] | None:
    """Which directory this is: where a disk was unmounted, another has its name."""
    try:
        found = root.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _prepare(root: Path) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
        probe = temporary(root / folder)
        probe.write_bytes(b"probe")
        probe.unlink()
    fsync_directory(root)


def _roles(source: Path) -> list[str]:
    roles = sorted(check_name(entry.name) for entry in source.iterdir())
    if not roles:
        raise StoreError(f"{source} is empty: the stage made nothing to publish")
    return roles


def _copy_out(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
