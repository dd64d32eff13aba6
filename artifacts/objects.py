"""The objects: files named by the sha256 of their bytes, ``cas/ab/abcd...``, mode 0444.

An object never changes once it has its name, so many may write the same one: whoever links it
first wins, and the others find it there. Nothing is believed for its name alone: an object is
hashed before it is first read and before it stands in for one that was to be written. One that
fails goes to ``quarantine/`` with a warning.

A verified object is remembered by inode, size and time of last change, for the life of this
process. Hard links share all three, so a view costs no second hash, and an object that is written
to afterwards is hashed again.
"""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from artifacts.digest import (
    Content,
    check_digest,
    decode_manifest,
    digest_bytes,
    digest_file,
    is_digest,
)
from artifacts.errors import CorruptObject, MissingObject, StoreError
from artifacts.lock import locked
from artifacts.records import Ref

_log = logging.getLogger(__name__)


class Objects:
    """The content-addressed part of the store at `root`; making one touches nothing."""

    def __init__(self, root: Path) -> None:
        self._cas = root / "cas"
        self._quarantine = root / "quarantine"
        self._quarantine_lock = root / "locks" / "quarantine.lock"
        self._root = root
        self._verified: dict[tuple[int, ...], str] = {}

    def path(self, digest: str) -> Path:
        """Return where the object of this digest lies or would lie; nothing is verified."""
        return self._cas / check_digest(digest)[:2] / digest

    def digests(self) -> Iterator[str]:
        """Yield the digest of every object, sorted."""
        names = sorted(path.name for path in self._cas.glob("??/*"))
        yield from filter(is_digest, names)

    def has(self, ref: Ref) -> bool:
        """Tell whether the object, and all members if it is a directory, have the right size.

        Contents are not hashed here, save a manifest's, which is small and has to be read.
        """
        if ref.kind == "file":
            return self._has_file(Content(ref.digest, ref.size))
        try:
            data = self.path(ref.digest).read_bytes()
            members = decode_manifest(data)
        except (OSError, StoreError):
            return False
        whole = digest_bytes(data).digest == ref.digest
        size = sum(content.size for content in members.values())
        return whole and size == ref.size and all(map(self._has_file, members.values()))

    def _has_file(self, content: Content) -> bool:
        try:
            found = os.lstat(self.path(content.digest))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == content.size

    def verified(self, digest: str, *, again: bool = False) -> Path:
        """Return the path of an object whose bytes are what `digest` says; hash it if need be.

        With `again` it is hashed even if this process has done so before.

        Raises:
            MissingObject: there is none.
            CorruptObject: it was not; it is in quarantine now.
        """
        path = self.path(digest)
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObject(digest, str(self._root)) from error
        reason = self._mismatch(path, found, digest, again=again)
        if reason:
            self._set_aside(digest, found, reason)
            raise CorruptObject(digest, reason)
        return path

    def members(self, digest: str) -> dict[str, Content]:
        """Return the members of a directory object, from its verified manifest.

        Raises:
            MissingObject, CorruptObject: as `verified`.
            StoreError: the object is not a directory.
        """
        return decode_manifest(self.verified(digest).read_bytes())

    def remove(self, digest: str) -> None:
        """Delete an object that nothing names any more; it may be gone already.

        Raises:
            OSError: the disk refuses.
        """
        self.path(digest).unlink(missing_ok=True)

    def remember(self, path: Path, digest: str) -> None:
        """Note that the bytes of `path` were hashed on their way to the disk."""
        self._verified[signature(os.lstat(path))] = digest

    def matches(self, path: Path, digest: str) -> bool:
        """Tell whether `path` is a regular file with the bytes that `digest` names."""
        try:
            return not self._mismatch(path, os.lstat(path), digest)
        except FileNotFoundError:
            return False

    def _mismatch(
        self, path: Path, found: os.stat_result, digest: str, *, again: bool = False
    ) -> str:
        """Say what is wrong with `path`, or nothing."""
        if not stat.S_ISREG(found.st_mode):
            return "it is not a regular file"
        if not again and self._verified.get(signature(found)) == digest:
            return ""
        try:
            actual = digest_file(path)
        except FileNotFoundError:
            return "it was taken away while it was read"
        if actual.digest != digest:
            return f"its {actual.size} bytes have the sha256 {actual.digest}"
        self._verified[signature(found)] = digest
        return ""

    def _set_aside(self, digest: str, found: os.stat_result, reason: str) -> None:
        """Move the bad object to quarantine, unless another process has already replaced it.

        The lock makes this exact: names in the CAS are otherwise only ever added, or removed as
        nothing names them, so under it the inode we hashed cannot give way to a good one between
        the look and the move.
        """
        path = self.path(digest)
        try:
            with locked(self._quarantine_lock):
                if not os.path.samestat(os.lstat(path), found):
                    return
                self._quarantine.mkdir(exist_ok=True)
                # A unique name: what was wrong with an earlier one may still be of interest.
                path.replace(self._quarantine / f"{digest}.{os.urandom(4).hex()}")
        except FileNotFoundError:
            return
        except OSError as error:  # a store that may only be read: still never serve the object
            _log.warning("object %s is corrupt (%s), left in place: %s", digest, reason, error)
            return
        _log.warning("object %s is corrupt (%s), moved to %s", digest, reason, self._quarantine)


def signature(found: os.stat_result) -> tuple[int, ...]:
    """Return what changes when the bytes of a file do, and is shared by its hard links."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
