"""How a benchmark takes its times: each call in turn, so that all meet the same neighbours."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def medians(calls: Sequence[Callable[[], Any]], *, repeats: int, warm_up: int = 0) -> list[float]:
    """Median seconds of each call, made in turn; the first `warm_up` rounds aren't counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(warm_up + repeats):
        for call, found in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            found.append(time.perf_counter() - started)
    return [statistics.median(found[warm_up:]) for found in seconds]
