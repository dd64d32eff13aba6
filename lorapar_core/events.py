"""What a running stage tells the process that started it.

A stage calls `progress(...)` and its like; log records travel by themselves. In a child process
both become JSON lines on a pipe of their own (`lorapar_core.child`); in a plain `python -m
lorapar_core` progress becomes lines on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Sink = Callable[[dict[str, Any]], None]


def _to_stderr(event: dict[str, Any]) -> None:
    if event["event"] != "progress":  # who runs a stage by hand sees its log
        return
    step, total = event.get("step"), event.get("total")
    rest = {k: v for k, v in event.items() if k not in ("event", "step", "total")}
    print(f"[{step}/{total}] {rest}", file=sys.stderr, flush=True)


_sink: Sink = _to_stderr


def set_sink(sink: Sink) -> None:
    """Send events to `sink` from now on."""
    global _sink
    _sink = sink


def forward(event: dict[str, Any]) -> None:
    """Pass on what another process of ours told."""
    _sink(event)


def progress(*, step: int, total: int, **figures: float | str | None) -> None:
    """Report that `step` of `total` units are done, with figures to show beside it."""
    _sink({"event": "progress", "step": step, "total": total, **figures})


def checkpoint(*, step: int, path: Path) -> None:
    """Report that `path` holds a whole checkpoint of `step` optimizer steps."""
    _sink({"event": "checkpoint", "step": step, "path": str(path)})


def footprint(**figures: float | str) -> None:
    """Report what the stage takes of the machine; told in its record, and part of no key."""
    _sink({"event": "footprint", **figures})


def resumed(history: Iterable[Mapping[str, Any]]) -> None:
    """Report from which steps the stage has gone on so far, this time last."""
    _sink({"event": "resumed", "history": [dict(entry) for entry in history]})
