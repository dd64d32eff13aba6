"""An event loop whose clock is moved on by waiting: hours pass at once, and always in one order.

When every task waits, the clock jumps to the next timer. What would run in a thread runs in line.
When every task waits and there is no timer either, nobody will ever wake them: `DeadLock`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from lorapar_core.teachers.pace import Time


class DeadLock(Exception):
    """All tasks wait for each other."""


class _Selector(selectors.DefaultSelector):
    """Never blocks: the time it would wait has passed."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise DeadLock
        self.passed += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.passed

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  a thread hands on what it is raised too
            done.set_exception(error)
        return done


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run` in virtual time, which begins at 0."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


def virtual_time() -> Time:
    """The running loop's time, for what takes one."""
    return Time(asyncio.get_running_loop().time, asyncio.sleep)


async def settle() -> None:
    """Let all tasks go as far as they can without time passing."""
    for _ in range(50):
        await asyncio.sleep(0)
