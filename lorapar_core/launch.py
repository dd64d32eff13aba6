"""A training stage in several processes, one a GPU: started, listened to, and ended together.

Each is a process as `child` serves them, with the variables by which torch and accelerate find each
other. What rank 0 tells is passed on; the first error of any ends all. We start them ourselves, and
not through torchrun, because each has to end with us whatever ends us (see `child`), and a torchrun
that is killed leaves its workers behind. Ranks that torchrun or `accelerate launch` has started are
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from lorapar_core import events
from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.errors import ConfigError, StageFailed, error_named
from lorapar_core.process import thread_count
from lorapar_core.spec import Spec
from lorapar_core.stopping import stop_request

_ENDS_S = 10.0


def require_launchable(recipe: Recipe) -> None:
    """Refuse processes and nodes that can't train together.

    Raises:
        ConfigError: as said.
    """
    runtime = recipe.runtime
    if runtime.node >= runtime.nodes:
        raise ConfigError(
            f"runtime.node is {runtime.node}, but there are {runtime.nodes} nodes; the first is 0"
        )
    if runtime.nodes > 1 and not runtime.rendezvous:
        raise ConfigError(f"{runtime.nodes} nodes need runtime.rendezvous, host:port of node 0")
    processes = runtime.processes * runtime.nodes
    for kind in sorted({stage.kind for stage in recipe.stages}):
        section = getattr(recipe, kind)
        for name in ("accumulation", "steps_per_generation"):
            passes = getattr(section, name, 0)
            if passes % processes:
                raise ConfigError(
                    f"{kind}.{name} is {passes}, which {processes} processes can't share evenly; "
                    "make it a multiple of runtime.processes × runtime.nodes"
                )


def train_in_ranks(spec: Spec, out: Path) -> None:
    """Train the stage in `runtime.processes` processes.

    Raises:
        LoraparError: what the first process that failed says.
    """
    threads = _threads(spec.runtime)
    runtime = spec.runtime.model_copy(update={"threads": threads})
    request = {"spec": json.loads(replace(spec, runtime=runtime).to_json()), "out": str(out)}
    with _ranks(_variables(spec.runtime, threads)) as processes:
        said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        for k, process in enumerate(processes):
            _open(process.stdin).write(json.dumps(request) + "\n")
            _open(process.stdin).flush()
            reader = threading.Thread(target=_read, args=(k, _open(process.stdout), said))
            reader.daemon = True
            reader.start()
        with stop_request(then=lambda: _terminate(processes)):
            _listen(said, processes)


def _threads(runtime: RuntimeConfig) -> int:
    """CPU threads of each."""
    return runtime.threads or max(1, thread_count(runtime) // runtime.processes)


def _variables(runtime: RuntimeConfig, threads: int) -> list[dict[str, str]]:
    """Of each process of this machine."""
    host, port = runtime.rendezvous.rpartition(":")[::2] if runtime.rendezvous else _loopback()
    first = runtime.node * runtime.processes
    return [
        {
            "WORLD_SIZE": str(runtime.nodes * runtime.processes),
            "RANK": str(first + local),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(runtime.processes),
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
        }
        for local in range(runtime.processes)
    ]


def _loopback() -> tuple[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", str(probe.getsockname()[1])


@contextmanager
def _ranks(variables: list[dict[str, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    try:
        for own in variables:
            process = subprocess.Popen(
                [sys.executable, "-m", "lorapar_core", "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, **own},
            )
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            _end(process)


def _read(k: int, stream: IO[str], said: queue.Queue[tuple[int, dict[str, Any] | None]]) -> None:
    """Pass on a process's events; None at its end."""
    for line in stream:
        if line.endswith("\n"):  # else it died in the middle of it
            said.put((k, json.loads(line)))
    said.put((k, None))


def _listen(
    said: queue.Queue[tuple[int, dict[str, Any] | None]],
    processes: list[subprocess.Popen[str]],
) -> None:
    """Until all are done."""
    done: set[int] = set()
    while len(done) < len(processes):
        k, event = said.get()
        if event is None and k not in done:
            code = processes[k].wait()
            raise StageFailed(f"process {k} of {len(processes)} ended with {code} while training")
        if event is None:
            continue
        if event["event"] == "done":
            done.add(k)
        elif event["event"] == "error":
            raise error_named(event["kind"], event["message"])
        elif k == 0:
            events.forward(event)


def _terminate(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.terminate()


def _end(process: subprocess.Popen[str]) -> None:
    """It has answered, or another has failed."""
    with suppress(BrokenPipeError):
        _open(process.stdin).close()
    try:
        process.wait(timeout=_ENDS_S if process.poll() is None else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _open(process.stdout).close()


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise StageFailed("a rank has no pipe")
    return stream
