"""One holder at a time: flock on a file, freed by the kernel however its holder ends.

A lock belongs to the open file, not to the process, so two threads exclude each other as two
processes do. A child forked without exec shares its parent's open file: the lock is given up
explicitly, so that such a child cannot keep it longer than the ``with`` block, but if the parent
is killed inside the block the lock lasts as long as the child.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, waiting for it as long as it takes; not reentrant.

    Raises:
        OSError: the lock file cannot be made, or its filesystem has no flock.
    """
    descriptor = _acquire(path)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_current(descriptor, path):
                return descriptor
        except BaseException:  # an interrupt while waiting must not leak the descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    """Tell whether `path` still is the locked file.

    Somebody may have deleted it while we waited; the lock on a nameless file excludes nobody.
    """
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
