"""A process that runs stages for its parent, one after another.

Protocol: the parent writes one JSON object a line to stdin, {"out": DIR, "spec": SPEC}; the child
answers with JSON lines on the descriptor that was its stdout: events ("progress", "log"), then one
"done" or "error". Whatever else writes to stdout (libraries, C code) lands on stderr.

The child ends when stdin does, and takes no Ctrl-C: that is for the parent, which then ends it by
SIGTERM, on which training keeps a checkpoint first. It also asks the kernel to be killed with its
parent (PR_SET_PDEATHSIG), so that a parent ended by kill -9 leaves no process holding a device.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from lorapar_core import events
from lorapar_core.errors import LoraparError
from lorapar_core.footprint import Footprint
from lorapar_core.process import give_back_memory, quiet_libraries, reset
from lorapar_core.spec import Spec
from lorapar_core.stages import stage

_PR_SET_PDEATHSIG = 1
_one_line_at_a_time = threading.Lock()


def serve(*, parent: int) -> int:
    """Run stages for the process `parent`, which has started this one, until stdin closes."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = take_stdout()
    events.set_sink(lambda event: _send(channel, event))
    logging.getLogger().addHandler(_LogToParent(channel))
    logging.getLogger().setLevel(logging.INFO)
    quiet_libraries()
    for line in sys.stdin:
        request = json.loads(line)
        _send(channel, _answer(request))
        give_back_memory()
    return 0


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere the closed
    pipe ends it."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def take_stdout() -> TextIO:
    """Stdout for events alone; what others write there lands on stderr."""
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _send(channel: TextIO, event: dict[str, Any]) -> None:
    with _one_line_at_a_time:
        channel.write(json.dumps(event) + "\n")
        channel.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        spec = Spec.from_json(json.dumps(request["spec"]))
        reset(spec.runtime)
        taken = Footprint()
        stage(spec.stage).run(spec, Path(request["out"]))
        events.footprint(**taken.figures())
    except Exception as error:  # noqa: BLE001  the process border: the parent raises it again
        return failure(error)
    return {"event": "done"}


def failure(error: Exception) -> dict[str, Any]:
    """The event that tells of it, with a traceback where it isn't ours."""
    told = {"event": "error", "kind": type(error).__name__, "message": str(error) or repr(error)}
    if isinstance(error, LoraparError):
        return told
    return {**told, "traceback": "".join(traceback.format_exception(error))}


class _LogToParent(logging.Handler):
    """Send every record up the pipe."""

    def __init__(self, channel: TextIO) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  logging's rule: a library's bad record stops no work
            self.handleError(record)
            return
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        _send(
            self._channel,
            {"event": "log", "logger": record.name, "level": record.levelno, "message": message},
        )
