"""One trainer at a time in a scratch folder: flock, given up by the kernel however its holder ends.

The store's lock keeps two runs apart. This one keeps a new trainer apart from an orphan that is
still ending, with the device and the checkpoints in its hands.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1
SAY_AFTER_S = 5.0
_LOG = logging.getLogger(__name__)


@contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in `folder`, and keep the others waiting.

    Raises:
        OSError: the lock file can't be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trainer.lock").open("a") as file:
        began = time.monotonic()
        said = False
        while not _taken(file.fileno()):
            if not said and time.monotonic() - began > SAY_AFTER_S:
                _LOG.warning("another process is training this; waiting for its end")
                said = True
            time.sleep(POLL_S)
        yield  # closing the file gives the lock up


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
