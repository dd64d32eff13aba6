"""One holder at a time: flock on a file, freed by the kernel however its holder ends.

A lock belongs to the open file, not to the process, so two threads exclude each other as two
processes do. A child forked without exec shares its parent's open file: the lock is given up
explicitly, so that such a child cannot keep it longer than the ``with`` block, but if the parent
is killed inside the block the lock lasts as long as the child.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1


@contextmanager
def locked(
    path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock on `path`, waiting for it as long as it takes; not reentrant.

    Those who hold it `shared` exclude only those who don't. While somebody else holds it `waiting`
    is called every `POLL_S`; what it raises ends the wait.

    Raises:
        OSError: the lock file cannot be made, or its filesystem has no flock.
    """
    descriptor = _acquire(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, waiting)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(path: Path, kind: int, waiting: Callable[[], None] | None) -> int:
    path.parent.mkdir(exist_ok=True)  # without its parents: a store that is gone stays gone
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor, kind, waiting)
            if _is_current(descriptor, path):
                return descriptor
        except BaseException:  # an interrupt while waiting must not leak the descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int, kind: int, waiting: Callable[[], None] | None) -> None:
    if waiting is None:
        fcntl.flock(descriptor, kind)
        return
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(POLL_S)
        else:
            return


def _is_current(descriptor: int, path: Path) -> bool:
    """Tell whether `path` still is the locked file.

    Somebody may have deleted it while we waited; the lock on a nameless file excludes nobody.
    """
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
