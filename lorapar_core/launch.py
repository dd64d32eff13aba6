"""A training stage in several processes, one a GPU: started, listened to, and ended together.

Each is a process as `child` serves them, with the variables by which torch and accelerate find each
other. We start them ourselves, and not through torchrun, because each has to end with us whatever
ends us (see `child`), and a torchrun that is killed leaves its workers behind. Ranks that torchrun
or `accelerate launch` has started, on one machine or several that share the scratch folder, are
ranks too.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from lorapar_core import events, ranks
from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.errors import ConfigError, LoraparError, StageFailed, Stopped, error_named
from lorapar_core.process import thread_count
from lorapar_core.spec import Spec
from lorapar_core.stopping import stop_request

_ENDS_S = 5.0
_CAUSE_S = 2.0
Said = queue.Queue[tuple[int, dict[str, Any] | None]]
"""Rank and event; None at a process's end."""


def require_launchable(recipe: Recipe) -> None:
    """Refuse a step that so many processes can't share.

    Raises:
        ConfigError: as said.
    """
    processes = recipe.runtime.processes
    for kind in sorted({stage.kind for stage in recipe.stages}):
        section = getattr(recipe, kind)
        for name in ("accumulation", "steps_per_generation"):
            passes = getattr(section, name, 0)
            if passes % processes:
                raise ConfigError(
                    f"{kind}.{name} is {passes}, which {processes} processes can't share evenly; "
                    "make it a multiple of runtime.processes"
                )


def train_in_ranks(spec: Spec, out: Path) -> None:
    """Train the stage in `runtime.processes` processes.

    Raises:
        LoraparError: what the first process that failed says.
    """
    threads = _threads(spec.runtime)
    runtime = spec.runtime.model_copy(update={"threads": threads})
    request = {"spec": json.loads(replace(spec, runtime=runtime).to_json()), "out": str(out)}
    with _ranks(_variables(spec.runtime.processes, threads)) as processes:
        said: Said = queue.Queue()
        for k, process in enumerate(processes):
            _open(process.stdin).write(json.dumps(request) + "\n")
            _open(process.stdin).flush()
            reader = threading.Thread(target=_read, args=(k, _open(process.stdout), said))
            reader.daemon = True
            reader.start()
        with stop_request(then=lambda: _terminate(processes)) as stop:
            listen(said, processes=len(processes), stopping=lambda: stop.made)


def _threads(runtime: RuntimeConfig) -> int:
    """CPU threads of each."""
    return runtime.threads or max(1, thread_count(runtime) // runtime.processes)


def _variables(processes: int, threads: int) -> list[dict[str, str]]:
    """Of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [
        {
            ranks.LAUNCHED: "1",
            "WORLD_SIZE": str(processes),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
        }
        for rank in range(processes)
    ]


@contextmanager
def _ranks(variables: list[dict[str, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    try:
        for own in variables:
            process = subprocess.Popen(
                [sys.executable, "-m", "lorapar_core", "--serve", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, **own},
            )
            processes.append(process)
        yield processes
    finally:
        _end(processes)


def _read(k: int, stream: IO[str], said: Said) -> None:
    """Pass on a process's events; None at its end."""
    for line in stream:
        if line.endswith("\n"):  # else it died in the middle of it
            said.put((k, json.loads(line)))
    said.put((k, None))


def listen(said: Said, *, processes: int, stopping: Callable[[], bool]) -> None:
    """Pass on what rank 0 says, until all are done.

    When one fails the others lose their connection and fail too, each with an error of a library's:
    the one that is ours tells why, and is waited for.

    Raises:
        LoraparError: what a process says.
        Stopped: one has ended, and somebody had asked for it.
    """
    done: set[int] = set()
    failed: LoraparError | None = None
    while len(done) < processes:
        try:
            rank, event = said.get(timeout=None if failed is None else _CAUSE_S)
        except queue.Empty:
            break
        if event is None:
            if rank not in done and failed is None:
                failed = StageFailed(f"process {rank} of {processes} ended while training")
        elif event["event"] == "done":
            done.add(rank)
        elif event["event"] == "error":
            error = error_named(event["kind"], event["message"])
            if not isinstance(error, StageFailed):
                raise error
            failed = error
        elif rank == 0:
            events.forward(event)
    if failed is not None:
        raise Stopped("stopped while its processes started") if stopping() else failed


def _terminate(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.terminate()


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """Each has answered, or another has failed."""
    for process in processes:
        with suppress(BrokenPipeError):
            _open(process.stdin).close()
    deadline = time.monotonic() + _ENDS_S
    for process in processes:
        try:
            process.wait(timeout=max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _open(process.stdout).close()


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise StageFailed("a rank has no pipe")
    return stream
