"""A training stage in several processes, one a GPU: started, listened to, and ended together.

Here on one machine; on several, each of them starts its own so (`node`), and `nodes` listens.

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
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
Tell = Callable[[int, dict[str, Any] | None], None]
"""The same, passed on."""


def require_launchable(recipe: Recipe) -> None:
    """Refuse a step that so many processes can't share.

    Raises:
        ConfigError: as said.
    """
    runtime = recipe.runtime
    if runtime.nodes > 1 and not runtime.node_command:
        raise ConfigError(
            f"runtime.nodes is {runtime.nodes}, and runtime.node_command is empty; give what "
            "starts a command once on each node, such as [srun, --nodes=2, --ntasks-per-node=1]"
        )
    if runtime.nodes > 1 and runtime.main_address and runtime.children > 1:
        raise ConfigError(
            f"runtime.main_address is {runtime.main_address}, and {runtime.children} children may "
            "train at a time, which can't share it; leave it empty, or use children: 1"
        )
    for kind in sorted({stage.kind for stage in recipe.stages}):
        section = getattr(recipe, kind)
        for name in ("accumulation", "steps_per_generation"):
            passes = getattr(section, name, 0)
            if passes % runtime.world:
                raise ConfigError(
                    f"{kind}.{name} is {passes}, which {runtime.world} processes can't share "
                    "evenly; make it a multiple of runtime.nodes × runtime.processes"
                )


def require_node_command(runtime: RuntimeConfig) -> None:
    """Refuse a command for nodes whose program isn't installed.

    Raises:
        ConfigError: as said.
    """
    if runtime.nodes > 1 and shutil.which(runtime.node_command[0]) is None:
        raise ConfigError(
            f"runtime.node_command begins with {runtime.node_command[0]!r}, which isn't found on "
            "this machine; give a program that is in PATH, or its path"
        )


def train_in_ranks(spec: Spec, out: Path) -> None:
    """Train the stage in `runtime.processes` processes.

    Raises:
        LoraparError: what the first process that failed says.
    """
    threads = _threads(spec.runtime)
    runtime = spec.runtime.model_copy(update={"threads": threads})
    said: Said = queue.Queue()
    with started(variables(runtime, address=f"127.0.0.1:{free_port()}")) as processes:
        ask(processes, replace(spec, runtime=runtime), out, tell=lambda *word: said.put(word))
        with stop_request(then=lambda: terminate(processes)) as stop:
            listen(said, processes=len(processes), stopping=lambda: stop.made)


def free_port() -> int:
    """One that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _threads(runtime: RuntimeConfig) -> int:
    """CPU threads of each."""
    return runtime.threads or max(1, thread_count(runtime) // runtime.processes)


def variables(runtime: RuntimeConfig, *, address: str, node: int = 0) -> list[dict[str, str]]:
    """Of each of a node's processes; rank 0 listens at `address`."""
    host, _, port = address.rpartition(":")
    return [
        {
            ranks.LAUNCHED: "1",
            "WORLD_SIZE": str(runtime.world),
            "RANK": str(node * runtime.processes + local),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(runtime.processes),
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": str(runtime.threads),
            "MKL_NUM_THREADS": str(runtime.threads),
        }
        for local in range(runtime.processes)
    ]


@contextmanager
def started(variables: list[dict[str, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each set of variables, ended with the context."""
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


def ask(
    processes: Sequence[subprocess.Popen[str]],
    spec: Spec,
    out: Path,
    *,
    tell: Tell,
    first: int = 0,
) -> None:
    """Have the processes, of ranks from `first` on, run the stage, and `tell` what each says."""
    request = {"spec": json.loads(spec.to_json()), "out": str(out)}
    for rank, process in enumerate(processes, first):
        with suppress(BrokenPipeError):  # it has ended, which its stdout tells
            opened(process.stdin).write(json.dumps(request) + "\n")
            opened(process.stdin).flush()
        arguments = (rank, opened(process.stdout), tell)
        threading.Thread(target=_read, args=arguments, daemon=True).start()


def _read(rank: int, stream: IO[str], tell: Tell) -> None:
    """Pass on a process's events; None at its end."""
    for line in stream:
        if line.endswith("\n"):  # else it died in the middle of it
            tell(rank, json.loads(line))
    tell(rank, None)


def listen(said: Said, *, processes: int, stopping: Callable[[], bool]) -> None:
    """Pass on what rank 0 says, until all are done.

    When one fails the others lose their connection and fail too, each with an error of a library's:
    the one that is ours tells why, and is waited for, and else one that ended without a word. When
    one has stopped all have, each at its own time: rank 0 may be writing their checkpoint still.

    Raises:
        LoraparError: what a process says.
        Stopped: one has ended, and somebody had asked for it.
    """
    everyone, answered = set(range(processes)), set[int]()
    stopped: LoraparError | None = None
    ended: LoraparError | None = None
    failed: LoraparError | None = None
    while not everyone <= answered:
        try:
            rank, event = said.get(timeout=_CAUSE_S if ended or failed else None)
        except queue.Empty:
            break
        if event is None:
            if rank not in answered:
                ended = ended or StageFailed(f"process {rank} of {processes} ended while training")
        elif event["event"] in ("done", "error"):
            answered.add(rank)
            error = error_named(event["kind"], event["message"]) if "kind" in event else None
            if isinstance(error, Stopped):
                stopped = error
            elif isinstance(error, StageFailed):
                failed = failed or error
            elif error:
                raise error
        elif rank == 0:
            events.forward(event)
    if stopped:
        raise stopped
    cause = ended or failed
    if cause:
        raise Stopped("stopped while its processes started") if stopping() else cause


def terminate(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask each to end its step and keep a checkpoint."""
    for process in processes:
        process.terminate()


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """Each has answered, or another has failed."""
    for process in processes:
        with suppress(BrokenPipeError):
            opened(process.stdin).close()
    deadline = time.monotonic() + _ENDS_S
    for process in processes:
        try:
            process.wait(timeout=max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        opened(process.stdout).close()


def opened(stream: IO[str] | None) -> IO[str]:
    """The stream, which is a pipe."""
    if stream is None:
        raise StageFailed("a rank has no pipe")
    return stream
