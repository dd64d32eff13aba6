"""What a running stage tells the process that started it.

A stage calls `progress(...)`; log records travel by themselves. In a child process both become
JSON lines on a pipe of their own (`lorapar_core.child`); in a plain `python -m lorapar_core` they
become lines on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Sink = Callable[[dict[str, Any]], None]


def _to_stderr(event: dict[str, Any]) -> None:
    step, total = event.get("step"), event.get("total")
    rest = {k: v for k, v in event.items() if k not in ("event", "step", "total")}
    print(f"[{step}/{total}] {rest}", file=sys.stderr, flush=True)


_sink: Sink = _to_stderr


def set_sink(sink: Sink) -> None:
    """Send events to `sink` from now on."""
    global _sink
    _sink = sink


def progress(*, step: int, total: int, **figures: float | str | None) -> None:
    """Report that `step` of `total` units are done, with figures to show beside it."""
    _sink({"event": "progress", "step": step, "total": total, **figures})
