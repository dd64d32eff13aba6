"""How a command ends when it is told to: as on Ctrl-C, so that what is under way is kept."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_in_order() -> Iterator[None]:
    """On SIGTERM end as on Ctrl-C, so that what is under way is stopped and kept."""

    def end(number: int, _frame: FrameType | None) -> None:
        print("lorapar: stopping; what is finished is kept", file=sys.stderr)
        sys.exit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
