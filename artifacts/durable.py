"""Whole or not at all: a unique temporary name, fsync, one atomic rename, fsync of the directory.

A process killed on the way leaves at most a stray file under ``tmp/``, which nobody reads. After
a power cut the same holds, because a name is made to point only at bytes that are on the disk.
"""

import os
from pathlib import Path


def temporary(tmp: Path) -> Path:
    """Return a path under `tmp` that no other process or thread uses; `tmp` is made if absent."""
    tmp.mkdir(exist_ok=True)  # without its parents: a store that is gone stays gone
    return tmp / f"{os.getpid()}-{os.urandom(8).hex()}"


def fsync_directory(directory: Path) -> None:
    """Put the names in `directory` on the disk.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Put the bytes of `path` on the disk, whoever wrote them.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(target: Path, data: bytes, *, tmp: Path) -> None:
    """Make `target` hold `data`, replacing what was there; a reader sees the old or the new.

    Raises:
        OSError: it cannot be written; `target` is then as it was.
    """
    partial = temporary(tmp)
    try:
        with partial.open("xb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    fsync_directory(target.parent)
