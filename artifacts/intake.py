"""How bytes become objects: hashed once, on the disk, and only then given their name.

A file of the store's own scratch is linked, not copied, so half a gigabyte costs one reading. Any
other file is hashed while it is copied. Both ways there is first a second name under ``tmp/``; the
object appears by one link from there, which fails if another writer was first.

The source is made read-only when it is linked, since from then on it *is* the object.
"""

import errno
import os
import stat
from pathlib import Path

from artifacts.digest import (
    Content,
    check_member,
    digest_bytes,
    digest_file,
    digest_stream,
    encode_manifest,
    walk_files,
)
from artifacts.durable import fsync_directory, fsync_file, temporary
from artifacts.errors import CorruptObject, MissingObject, StoreError
from artifacts.objects import Objects, signature
from artifacts.records import Ref

NO_HARD_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What `os.link` reports where a copy or a rename has to do instead."""

ATTEMPTS = 5
"""Tries to put an object in the place of a bad one, in case it cannot be moved away."""


class Intake:
    """Adds objects to the store at `root`; making one touches nothing."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self._objects = objects
        self._tmp = root / "tmp"
        self._own = (root / "scratch", root / "tmp")

    def put(self, source: Path) -> Ref:
        """Store the file or directory at `source`.

        Raises:
            StoreError: a symbolic link, another special file, a name the store does not take, or
                a directory without any file.
            OSError: the disk refuses.
        """
        if source.is_symlink() or not source.is_dir():
            content = self._put_file(source)
            return Ref(content.digest, content.size, "file")
        members = {check_member(name): self._put_file(source / name) for name in walk_files(source)}
        if not members:
            raise StoreError(f"{source} holds no file: a directory without content is no artifact")
        manifest = self._put_bytes(encode_manifest(members))
        return Ref(manifest.digest, sum(content.size for content in members.values()), "dir")

    def _put_file(self, source: Path) -> Content:
        before = os.lstat(source)
        if not stat.S_ISREG(before.st_mode):
            raise StoreError(f"{source} is no regular file: publish the file itself, not a link")
        candidate = temporary(self._tmp)
        try:
            content = self._link(source, before, candidate) or _copy(source, candidate)
            if signature(os.lstat(source)) != signature(before):
                raise StoreError(f"{source} changed while it was read: publish it when it is done")
            self._install(candidate, content)
        finally:
            candidate.unlink(missing_ok=True)
        return content

    def _put_bytes(self, data: bytes) -> Content:
        candidate = temporary(self._tmp)
        try:
            candidate.write_bytes(data)
            fsync_file(candidate)
            content = digest_bytes(data)
            self._install(candidate, content)
        finally:
            candidate.unlink(missing_ok=True)
        return content

    def _link(self, source: Path, found: os.stat_result, candidate: Path) -> Content | None:
        """Give the store's own file a second name instead of copying it; None: it must be copied.

        Elsewhere the inode belongs to somebody else, who may write to it later. So does one in
        scratch that has other names, unless the only other name is the object itself.
        """
        if not self._is_own(source):
            return None
        content = digest_file(source)
        if found.st_nlink > 1 and not self._is_object(found, content.digest):
            return None
        try:
            os.link(source, candidate)
        except OSError as error:
            if error.errno in NO_HARD_LINK:
                return None
            raise
        fsync_file(candidate)
        return content

    def _is_own(self, source: Path) -> bool:
        real = source.resolve()
        return any(real.is_relative_to(own.resolve()) for own in self._own)

    def _is_object(self, found: os.stat_result, digest: str) -> bool:
        try:
            return os.path.samestat(os.lstat(self._objects.path(digest)), found)
        except FileNotFoundError:
            return False

    def _install(self, candidate: Path, content: Content) -> None:
        """Give the hashed file `candidate`, whose bytes are on the disk, its name in the CAS."""
        candidate.chmod(0o444)
        self._objects.remember(candidate, content.digest)
        target = self._objects.path(content.digest)
        target.parent.mkdir(exist_ok=True)
        for _ in range(ATTEMPTS):
            if self._is_sound(content.digest) or _link_or_rename(candidate, target):
                break
        else:
            raise StoreError(f"{target} is corrupt and cannot be replaced: remove it by hand")
        # Also for an object that was there: its writer may not have come this far.
        fsync_directory(target.parent)
        fsync_directory(target.parent.parent)

    def _is_sound(self, digest: str) -> bool:
        try:
            self._objects.verified(digest)
        except (MissingObject, CorruptObject):
            return False
        return True


def _copy(source: Path, candidate: Path) -> Content:
    with source.open("rb", buffering=0) as reader, candidate.open("xb") as writer:
        content = digest_stream(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
    return content


def _link_or_rename(candidate: Path, target: Path) -> bool:
    """Give `candidate` the name `target`; False if that name is taken."""
    try:
        os.link(candidate, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        candidate.replace(target)  # two writers of a digest write the same bytes
    return True
