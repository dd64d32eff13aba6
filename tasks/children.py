"""Processes that run heavy stages: started when needed, `children` at a time, gone with us.

A child asks the kernel to die with the *thread* that started it, and the threads that run tasks
come and go. So one thread of this module, which lives as long as the process, starts them all.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from lorapar_core import ranks
from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.errors import LoraparError, StageFailed, Stopped, error_named
from lorapar_core.process import environment
from lorapar_core.secrets import crossing_out, secrets_of
from lorapar_core.spec import Spec

_LOGGER = logging.getLogger("lorapar.children")
Listener = Callable[[Mapping[str, Any]], None]
_GRACE_S = 5.0
_SHORT_S = 0.5
_VOTE_PROCESSES = 8
_OTHERS_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_OTHERS = ("PREFECT_", "MLFLOW_")
_ADDRESSES = ("_API_BASE", "_BASE_URL")
_OVER = "not started: the run has ended"


class Children:
    """The child processes of one run; close it to end them."""

    def __init__(self, runtime: RuntimeConfig, teachers: Sequence[TeacherConfig] = ()) -> None:
        """`teachers` are those of the recipe: what children say is told without their keys."""
        self._runtime = runtime
        self._teachers = teachers
        self._places = {
            "device": threading.BoundedSemaphore(runtime.children),
            "network": threading.BoundedSemaphore(_VOTE_PROCESSES),
        }
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="lorapar-child-starter")

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the run is over; whatever still waits for a process gets none."""
        return self._closed.is_set()

    def close(self) -> None:
        """End every child, and start no more. A stage that trains may end its step first."""
        with self._guard:
            self._closed.set()
            children, self._all, self._idle = list(self._all), set(), []
        for child in children:
            child.ask_to_end()
        deadline = time.monotonic() + self._runtime.grace_s
        for child in children:
            child.end(patience_s=max(_SHORT_S, deadline - time.monotonic()))
        self._starter.shutdown(wait=True)

    def run(
        self, spec: Spec, out: Path, *, place: Literal["device", "network"], listen: Listener
    ) -> float:
        """Run one stage in a child; returns the seconds it took, the wait for a place left out.

        Raises:
            LoraparError: what the stage said, or `StageFailed` if its process died.
        """
        stays = self._runtime.child == "resident" and place == "device"
        with self._places[place]:
            child = self._take() if stays else self._start(place)
            started = time.monotonic()
            try:
                child.run(spec, out, listen)
            except Stopped as error:
                self._forget(child)
                if self.closed:
                    raise
                raise StageFailed(f"{error}: somebody else told its process to end") from error
            except BaseException as error:
                # A stage that refused leaves its process as good as before. One that crashed does
                # not, and one that was cancelled, or whose listener failed, is at work still.
                if child.answered and not isinstance(error, StageFailed):
                    self._put_back(child, stays=stays)
                else:
                    self._forget(child)
                raise
            self._put_back(child, stays=stays)
            return time.monotonic() - started

    def _take(self) -> _Child:
        self._require_open()
        with self._guard:
            if self._idle:
                return self._idle.pop()
        return self._start("device")

    def _start(self, place: Literal["device", "network"]) -> _Child:
        self._require_open()
        named = {variable for teacher in self._teachers for variable in teacher.variables}
        # What would make it one of several that train together: a pod that torch's operator has
        # started carries it.
        hidden = set(ranks.VARIABLES)
        if place == "network":
            hidden |= {variable for variable in os.environ if _not_for_providers(variable)} - named
        cross_out = crossing_out(secrets_of(self._teachers, os.environ))
        try:
            child = self._starter.submit(_Child, self._runtime, hidden, cross_out).result()
        except RuntimeError:  # its executor was shut down since
            self._require_open()
            raise
        with self._guard:
            if not self.closed:
                self._all.add(child)
                return child
        child.end()  # closed while it started
        raise Stopped(_OVER)

    def _require_open(self) -> None:
        if self.closed:
            raise Stopped(_OVER)

    def _put_back(self, child: _Child, *, stays: bool) -> None:
        if not stays:
            self._forget(child)
            return
        with self._guard:
            self._idle.append(child)

    def _forget(self, child: _Child) -> None:
        with self._guard:
            self._all.discard(child)
        child.end()


class _Child:
    """One process that serves stages (`lorapar_core.child`)."""

    def __init__(
        self, runtime: RuntimeConfig, hidden: Collection[str], cross_out: Callable[[Any], Any]
    ) -> None:
        """`hidden` variables are not passed on; `cross_out` takes secrets out of what it says."""
        self._cross_out = cross_out
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lorapar_core", "--serve", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # what a library writes to stderr may be anything
            env={**_without(hidden), **environment(runtime)},
        )
        self.answered = True
        """Whether the last request was answered, so that it can take another."""
        self._ended = False
        self._listen: Listener = _ignore
        self._last_words: list[str] = []
        self._busy = threading.Lock()
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    def run(self, spec: Spec, out: Path, listen: Listener) -> None:
        self._listen = listen
        request = {"spec": json.loads(spec.to_json()), "out": str(out)}
        with self._busy:
            self.answered = False
            try:
                self._ask(json.dumps(request), spec.name)
                self._await(spec.name, listen)
            finally:
                self._listen = _ignore

    def _ask(self, line: str, name: str) -> None:
        stdin = _open(self._process.stdin)
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._died(name) from None
        except ValueError:  # closed: we were told to end just now
            raise Stopped(_OVER) from None

    def _await(self, name: str, listen: Listener) -> None:
        for line in _open(self._process.stdout):
            if not line.endswith("\n"):  # it died in the middle of a line
                break
            event = json.loads(line)
            event = {**self._cross_out(event), "event": event["event"]}
            self.answered = event["event"] in ("done", "error")
            if event["event"] == "done":
                return
            if event["event"] == "error":
                if "traceback" in event:
                    listen(_log("lorapar.child", logging.ERROR, event["traceback"]))
                raise error_named(event["kind"], event["message"])
            listen(event)
        raise self._died(name)

    def _died(self, name: str) -> LoraparError:
        code = self._process.wait()
        self._drain.join(_GRACE_S)
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        said = f"; it last said: {' / '.join(self._last_words[-3:])}" if self._last_words else ""
        if self._ended:
            return Stopped(f"the process of {name} {how}: its run has ended")
        memory = " (out of memory?)" if code == -9 else ""
        return StageFailed(f"the process of {name} {how}{memory}{said}")

    def _read_stderr(self) -> None:
        for line in _open(self._process.stderr):
            text = self._cross_out(line.strip())
            if text:
                self._last_words = [*self._last_words[-9:], text]
                self._tell(_log("lorapar.child.stderr", logging.INFO, text))

    def _tell(self, event: Mapping[str, Any]) -> None:
        """Tell the listener from the thread that reads stderr, which no listener may end: a
        process whose stderr nobody reads stops at its next line."""
        try:
            self._listen(event)
        except Exception:  # as said
            _LOGGER.warning("a line of a stage's process was not passed on", exc_info=True)

    def ask_to_end(self) -> None:
        """Close its input and send SIGTERM: a stage that trains ends its step and keeps a
        checkpoint, any other process ends at once."""
        self._ended = True
        if self._process.stdin:
            with suppress(BrokenPipeError):  # it is gone already
                self._process.stdin.close()
        self._process.terminate()

    def end(self, *, patience_s: float = 0.0) -> None:
        """Have it end; kill it where that takes more than `patience_s`."""
        process = self._process
        if not self._ended:
            self.ask_to_end()
        try:
            process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._drain.join(_GRACE_S)
        if self._busy.acquire(timeout=_GRACE_S):  # whoever waits for it has seen its end
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
            self._busy.release()


def _not_for_providers(variable: str) -> bool:
    """Keys of others than teachers; and what would send a teacher's requests, and its key, to where
    neither the recipe nor the votes' keys say."""
    return variable in _OTHERS_KEYS or variable.startswith(_OTHERS) or variable.endswith(_ADDRESSES)


def _without(hidden: Collection[str]) -> dict[str, str]:
    """Our environment, without some variables."""
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise StageFailed("the child process has no pipe")
    return stream


def _log(logger: str, level: int, message: str) -> dict[str, Any]:
    return {"event": "log", "logger": logger, "level": level, "message": message}


def _ignore(_event: Mapping[str, Any]) -> None:
    """Nobody asks."""
