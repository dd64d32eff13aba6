"""One node of several that train a stage: what `runtime.node_command` starts on each.

It reads its number from the environment, where whatever started it has put it, and lines of JSON
from stdin, which every node gets alike:

    {"spec": SPEC, "out": DIR}
    {"start": {"address": HOST:PORT, "threads": N}}     once all nodes are there
    {"stop": true}                                      on which training keeps a checkpoint

It answers as `node_lines` has it: {"event": "here", …}, of node 0 {"event": "ready", …}, what its
processes say, {"rank": RANK, "said": EVENT} (null at their end), now and then {"event": "alive"}.
When stdin ends it ends, and its processes with it: so they do when the launcher is killed.

Node 0 keeps other trainers away from the checkpoints, and is ready when it alone has them: the
launcher may be on another machine, and die before its nodes do.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from lorapar_core import launch
from lorapar_core.child import failure, take_stdout
from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ConfigError
from lorapar_core.journal import alone_with_checkpoints, refused_by_disk
from lorapar_core.node_lines import lines
from lorapar_core.process import environment, quiet_libraries, thread_count
from lorapar_core.spec import Spec
from lorapar_core.stopping import stop_request

NUMBERS = ("SLURM_NODEID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "GROUP_RANK", "NODE_RANK")
"""Environment variables that tell a node's number, from 0; the first that is set counts."""
BEAT_S = 10.0
_LEAVES_S = 2.0
"""A node whose stdin has ended and that is still waiting leaves after so long."""


class _Channel:
    """What goes to the launcher, from several threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._guard = threading.Lock()
        self.node: int | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        with self._guard, suppress(BrokenPipeError):  # stdin ends too, then
            for line in lines(self.node, message):
                self._stream.write(line)
                self._stream.flush()

    def rank_said(self, rank: int, event: dict[str, Any] | None) -> None:
        self.send({"rank": rank, "said": event})

    def beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.send({"event": "alive"})


def serve() -> int:
    """Be one node until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher
    channel = _Channel(take_stdout())
    quiet_libraries()
    try:
        channel.node = number(os.environ)
        _serve(channel.node, channel)
    except Exception as error:  # noqa: BLE001  the process border: the launcher raises it again
        channel.send(failure(error))
        return 1
    return 0


def number(variables: Mapping[str, str]) -> int:
    """This node's.

    Raises:
        ConfigError: no variable tells it.
    """
    for name in NUMBERS:
        if variables.get(name, "").isdecimal():
            return int(variables[name])
    raise ConfigError(
        f"a node doesn't know its number: none of {', '.join(NUMBERS)} is set; have "
        "runtime.node_command set one, as srun does"
    )


def _serve(node: int, channel: _Channel) -> None:
    begun = threading.Event()
    told = map(json.loads, iter(_lines_told(begun).get, None))
    request = next(told, None)
    if request is None:
        raise ConfigError(
            f"node {node} was told nothing; runtime.node_command has to pass stdin on to every node"
        )
    spec = Spec.from_json(json.dumps(request["spec"]))
    runtime = spec.runtime
    if node >= runtime.nodes:
        raise ConfigError(
            f"runtime.node_command has started a node {node}, and runtime.nodes is "
            f"{runtime.nodes}; have it start as many, each once"
        )
    channel.send({"event": "here", "threads": thread_count(runtime)})
    threading.Thread(target=channel.beat, daemon=True).start()
    try:
        with alone_with_checkpoints(spec) if node == 0 else nullcontext():
            if node == 0:
                channel.send({"event": "ready", "address": _address(runtime)})
            start = next((line["start"] for line in told if "start" in line), None)
            begun.set()
            if start:
                _train(node, spec, Path(request["out"]), start, told, channel)
    except OSError as error:
        raise refused_by_disk(spec, error) from error


def _lines_told(begun: threading.Event) -> queue.Queue[str | None]:
    """Lines of stdin, and None at its end. If training hasn't `begun` by then the process ends,
    whatever it may be waiting for: another trainer may have the checkpoints for hours."""
    told: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            told.put(line)
        told.put(None)
        if not begun.wait(_LEAVES_S):
            os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return told


def _address(runtime: RuntimeConfig) -> str:
    return runtime.main_address or f"{socket.gethostname()}:{launch.free_port()}"


def _train(
    node: int,
    spec: Spec,
    out: Path,
    start: Mapping[str, Any],
    told: Iterator[Mapping[str, Any]],
    channel: _Channel,
) -> None:
    """Have this node's processes train until stdin ends."""
    runtime = spec.runtime.model_copy(update={"threads": start["threads"]})
    own = launch.variables(runtime, address=start["address"], node=node)
    everything = [{**environment(runtime), **each} for each in own]
    with (
        launch.started(everything) as processes,
        stop_request(then=lambda: launch.terminate(processes)),
    ):
        first = node * runtime.processes
        spec = replace(spec, runtime=runtime)
        launch.ask(processes, spec, out, tell=channel.rank_said, first=first)
        for line in told:
            if "stop" in line:
                launch.terminate(processes)
