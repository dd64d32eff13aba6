"""Does the store still hold what its records promise? Every byte is read and hashed again."""

from collections.abc import Iterable
from dataclasses import dataclass

from artifacts.errors import CorruptObject, MissingObject, StoreError
from artifacts.objects import Objects
from artifacts.records import Record, Ref


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a full verification found."""

    checked: int
    """Objects hashed, good and bad."""
    bad: tuple[tuple[str, str], ...]
    """Digest and reason of each object that went to quarantine."""
    missing: tuple[tuple[str, str, str], ...]
    """Record key, role and digest of each output that is no longer whole."""
    bytes: int
    """Size of the good objects together."""

    @property
    def ok(self) -> bool:
        """Tell whether nothing is bad and nothing is missing."""
        return not self.bad and not self.missing


def verify(objects: Objects, records: Iterable[Record]) -> VerifyReport:
    """Hash every object, move the bad ones to quarantine, then see what the records lack.

    Raises:
        OSError: an object cannot be read.
    """
    checked, size = 0, 0
    bad: list[tuple[str, str]] = []
    for digest in objects.digests():
        try:
            size += objects.verified(digest, again=True).stat().st_size
        except CorruptObject as error:
            bad.append((digest, error.reason))
        except (MissingObject, FileNotFoundError):  # another process moved it in the meantime
            continue
        checked += 1
    return VerifyReport(checked, tuple(bad), tuple(_missing(objects, records)), size)


def _missing(objects: Objects, records: Iterable[Record]) -> Iterable[tuple[str, str, str]]:
    for record in records:
        for role, ref in record.outputs.items():
            for digest in _absent(objects, ref):
                yield record.key, role, digest


def _absent(objects: Objects, ref: Ref) -> Iterable[str]:
    """Yield the digests that `ref` needs and the store lacks: its own, or a directory's members."""
    if objects.has(ref):
        return
    try:
        members = objects.members(ref.digest) if ref.kind == "dir" else {}
    except StoreError:
        members = {}
    absent = [
        content.digest
        for content in members.values()
        if not objects.has(Ref(content.digest, content.size, "file"))
    ]
    yield from absent or [ref.digest]
