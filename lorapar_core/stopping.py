"""SIGTERM asks a training stage to end at the next step boundary, not in the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody has asked this process to end."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.made = False
        self._then = then

    def _make(self, _number: int, _frame: FrameType | None) -> None:
        self.made = True
        self._then()


@contextmanager
def stop_request(*, then: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Take SIGTERM for a request while the context lasts, and do `then`.

    Only a process's main thread receives signals; elsewhere none is ever made.
    """
    request = StopRequest(then)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = signal.signal(signal.SIGTERM, request._make)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, former)
