"""Work in progress that any worker can go on from: checkpoints as objects, and who names them.

    progress/<key>.json   the newest checkpoints of an action that isn't published yet

The document is written after the objects it names and replaced whole, so it never names what isn't
there yet. It keeps the newest `KEPT`; what it no longer names is removed at once, not left to a gc:
a run of half a day would else leave more behind than it makes. What anything else names, be it a
record or another action's progress, stays.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.canonical import canonical_json
from artifacts.digest import check_digest
from artifacts.durable import write_whole
from artifacts.errors import StoreError
from artifacts.objects import Objects
from artifacts.records import Record, Ref, read_document
from artifacts.views import Views

KEPT = 2
"""How many a document names: should the newest be corrupt, the one before it serves."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """One of them."""

    step: int
    """How far the work had come."""
    ref: Ref
    """A directory object."""
    writer: Mapping[str, Any]
    """Who kept it, and when: told for the reader."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain JSON value that `from_json` reads."""
        return {"step": self.step, "ref": self.ref.to_json(), "writer": dict(self.writer)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StoredCheckpoint":
        """Read what `to_json` gave.

        Raises:
            StoreError: a field is missing or out of its bounds.
        """
        try:
            return cls(int(value["step"]), Ref.from_json(value["ref"]), dict(value["writer"]))
        except (TypeError, KeyError, ValueError) as error:
            raise StoreError(f"not a checkpoint ({error}): {str(value)[:200]}") from error


class Progress:
    """The progress documents of the store at `root`; making one touches nothing."""

    def __init__(self, root: Path, objects: Objects, views: Views) -> None:
        self._folder = root / "progress"
        self._tmp = root / "tmp"
        self._objects = objects
        self._views = views

    def read(self, key: str) -> list[StoredCheckpoint]:
        """Return the checkpoints of an action, the newest first; a torn document names none.

        Raises:
            StoreError: `key` is not 64 hex characters.
        """
        return _checkpoints(self._path(key))

    def write(self, key: str, checkpoint: StoredCheckpoint) -> list[Ref]:
        """Name `checkpoint`, whose object is there, as the newest; return what it pushes out.

        What went further goes too: it was left out, or this would not be the newest.

        Raises:
            OSError: the disk refuses.
        """
        former = self.read(key)
        before = [c for c in former if c.step < checkpoint.step and self._objects.has(c.ref)]
        kept = [checkpoint, *before][:KEPT]
        document = {"key": key, "checkpoints": [c.to_json() for c in kept]}
        write_whole(self._path(key), canonical_json(document) + b"\n", tmp=self._tmp)
        return [c.ref for c in former if c.ref not in [k.ref for k in kept]]

    def drop(self, key: str) -> list[Ref]:
        """Forget an action's checkpoints: it is published. Return what they were.

        Raises:
            OSError: the disk refuses.
        """
        former = self.read(key)
        self._path(key).unlink(missing_ok=True)
        return [c.ref for c in former]

    def remove(self, refs: Iterable[Ref], *, records: Iterable[Record]) -> None:
        """Delete these objects, and their members, unless something names them.

        Nobody may put an object and name it only afterwards meanwhile: the store's naming lock.

        Raises:
            OSError: the disk refuses.
        """
        doomed = self._digests(refs)
        if not doomed:
            return
        alive = [ref for record in records for ref in record.outputs.values()]
        for digest in sorted(doomed - self._digests([*alive, *self.refs()])):
            self._views.remove(digest)
            self._objects.remove(digest)

    def refs(self) -> list[Ref]:
        """Return every object that some action's progress names."""
        paths = sorted(self._folder.glob("*.json"))
        return [checkpoint.ref for path in paths for checkpoint in _checkpoints(path)]

    def _path(self, key: str) -> Path:
        return self._folder / f"{check_digest(key)}.json"

    def _digests(self, refs: Iterable[Ref]) -> set[str]:
        """The objects' own digests, and their members'."""
        found = set()
        for ref in refs:
            found.add(ref.digest)
            if ref.kind == "dir" and self._objects.has(ref):
                members = self._objects.members(ref.digest).values()
                found.update(content.digest for content in members)
        return found


def _checkpoints(path: Path) -> list[StoredCheckpoint]:
    document = read_document(path)
    try:
        return [
            StoredCheckpoint.from_json(value) for value in (document or {}).get("checkpoints", [])
        ]
    except StoreError:
        return []
