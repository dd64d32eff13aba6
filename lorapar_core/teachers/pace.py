"""How fast a teacher is asked: its rate limits, how many requests at once, and when to pause.

- Token buckets keep requests and tokens a minute below the provider's limits. A bucket may be
  overdrawn: who takes from it waits until it is even again.
- Concurrency falls by `CUT` on 429, once a second at most (the replies of one second tell of one
  overload), and grows by `GROWTH` with every answer, up to its maximum (AIMD, as TCP does).
- A breaker opens when `FAILURES` requests in a row have failed, whatever the failure: then nothing
  is sent but one probe after each cool-down, which doubles. It drops no vote; it pauses.

Clock and sleep are passed in, so that tests run hours in no time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

CUT = 0.7
CUT_EVERY_S = 1.0
GROWTH = 0.25
FAILURES = 10
FIRST_COOL_DOWN_S = 1.0
LONGEST_COOL_DOWN_S = 60.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
BURST_S = 1.0
"""Seconds' worth that a bucket holds: what may go out at once after a rest."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds that pass."""

    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


class Bucket:
    """`per_minute` of something, 0 for without limit."""

    def __init__(self, per_minute: float, time: Time) -> None:
        self._rate = per_minute / 60
        self._time = time
        self._most = max(1.0, self._rate * BURST_S)
        self._level = self._most
        self._filled = time.now()

    async def take(self, amount: float) -> None:
        """Take `amount`, and wait until the bucket has that much."""
        if not self._rate:
            return
        self._fill()
        self._level -= amount
        if self._level < 0:
            await self._time.sleep(-self._level / self._rate)

    def give_back(self, amount: float) -> None:
        """What was taken and not used; more than was taken is a debt (negative)."""
        if self._rate:
            self._fill()
            self._level = min(self._most, self._level + amount)

    def _fill(self) -> None:
        now = self._time.now()
        self._level = min(self._most, self._level + (now - self._filled) * self._rate)
        self._filled = now


class Concurrency:
    """At most `limit` requests at once, in the order in which they ask."""

    def __init__(self, maximum: int, time: Time) -> None:
        self.limit = float(maximum)
        self.in_flight = 0
        self._maximum = maximum
        self._time = time
        self._cut_at = -CUT_EVERY_S
        self._queue: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        if self.in_flight < self._whole and not self._queue:
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        await turn  # who wakes us has counted us in

    def leave(self) -> None:
        self.in_flight -= 1
        self._admit()

    def answered(self) -> None:
        """The teacher kept up."""
        self.limit = min(self._maximum, self.limit + GROWTH)
        self._admit()

    def overloaded(self) -> None:
        """It answered 429."""
        now = self._time.now()
        if now - self._cut_at >= CUT_EVERY_S:
            self._cut_at = now
            self.limit = max(1.0, self.limit * CUT)

    @property
    def _whole(self) -> int:
        return int(self.limit)

    def _admit(self) -> None:
        while self._queue and self.in_flight < self._whole:
            turn = self._queue.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class Breaker:
    """Pauses a teacher that fails again and again, until a probe is answered."""

    def __init__(
        self,
        name: str,
        time: Time,
        *,
        longest_s: float = LONGEST_COOL_DOWN_S,
        failures: int = FAILURES,
    ) -> None:
        self._name = name
        self._time = time
        self._longest_s = longest_s
        self._allowed = failures
        self._in_a_row = 0
        self._failed_on: set[str] = set()
        self._began = time.now()
        self._open_since: float | None = None
        self._open_before_s = 0.0
        self._cool_down = 0.0
        self._probing = False
        self._changed = asyncio.Event()

    def is_open(self) -> bool:
        """Whether nothing but probes is sent."""
        return self._open_since is not None

    @property
    def silent_s(self) -> float:
        """Seconds since it opened; 0 while it is closed."""
        return 0.0 if self._open_since is None else self._time.now() - self._open_since

    def closed_s(self) -> float:
        """Seconds that have passed while it was closed: a clock that stands still in a pause."""
        return self._time.now() - self._began - self._open_before_s - self.silent_s

    @property
    def failed_on(self) -> int:
        """How many examples it has failed on since the last answer."""
        return len(self._failed_on)

    async def wait(self) -> bool:
        """Return when a request may be sent; True to the one that is the probe."""
        while self.is_open():
            if self._probing:
                await self._changed.wait()
                continue
            self._probing = True
            try:
                await self._time.sleep(self._cool_down * random.uniform(1.0, 1.2))
            except asyncio.CancelledError:
                self.end_probe()
                raise
            if self.is_open():  # nobody who was under way has been answered meanwhile
                return True
            self.end_probe()
        return False

    def answered(self) -> None:
        if self._open_since is not None:
            _LOG.warning("teacher %r answers again after %.0f s", self._name, self.silent_s)
            self._open_before_s += self.silent_s
        self._in_a_row, self._open_since = 0, None
        self._failed_on.clear()
        self.end_probe()

    def failed(
        self,
        what: str,
        example_id: str,
        *,
        probe: bool,
        retry_after_s: float = 0.0,
    ) -> None:
        self._in_a_row += 1
        self._failed_on.add(example_id)
        if probe:
            self._cool(2 * self._cool_down, retry_after_s)
            self.end_probe()
        elif self._open_since is None and self._in_a_row >= self._allowed:
            self._open_since = self._time.now()
            self._cool(FIRST_COOL_DOWN_S, retry_after_s)
            _LOG.warning(
                "teacher %r has failed %d times in a row (%.200s last); it is paused and tried "
                "again every %.0f to %.0f s",
                self._name,
                self._in_a_row,
                what,
                self._cool_down,
                max(self._cool_down, self._longest_s),
            )

    def _cool(self, seconds: float, retry_after_s: float) -> None:
        self._cool_down = max(min(seconds, self._longest_s), retry_after_s)

    def end_probe(self) -> None:
        """Let another request be the probe."""
        self._probing = False
        self._changed.set()
        self._changed = asyncio.Event()


def pause_s(failures: int) -> float:
    """Seconds before a vote's next request: doubling, with jitter, so that clients spread out."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1))
    return longest * random.uniform(0.5, 1.0)
