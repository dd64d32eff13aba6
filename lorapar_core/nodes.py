"""A training stage on several machines: their nodes started by a command, listened to, ended.

The command (`srun`, say) starts `lorapar_core.node` once on each machine, and passes stdin on to
all of them and their stdout back. Nothing depends on how it treats signals: to stop and to end are
words on stdin, and its end. It may fail in every way, and the stage then fails and says so; a node
that nobody has heard of for a while counts as gone.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorapar_core.child import failure
from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ConfigError, LoraparError, StageFailed, Stopped, error_named
from lorapar_core.launch import Said, listen, opened
from lorapar_core.node import BEAT_S, NUMBERS
from lorapar_core.node_lines import Messages
from lorapar_core.spec import Spec
from lorapar_core.stopping import StopRequest, stop_request

_LOG = logging.getLogger(__name__)
_COME_S = 600.0
"""A command may wait for its machines."""
_SILENT_S = 12 * BEAT_S
_ENDS_S = 15.0
_POLL_S = 0.1
_NOBODY = -1
"""In place of a rank, where a node or its command speaks."""


def train_on_nodes(spec: Spec, out: Path) -> None:
    """Train the stage in `runtime.processes` processes on each of `runtime.nodes` machines.

    Raises:
        LoraparError: what the first process that failed says, or that the nodes didn't come.
    """
    runtime = spec.runtime
    with _started(runtime) as nodes:
        nodes.tell({"spec": json.loads(spec.to_json()), "out": str(out)})
        with stop_request(then=nodes.stop) as stop:
            nodes.begin(stop)
            listen(nodes.said, processes=runtime.world, stopping=lambda: stop.made)


@contextmanager
def _started(runtime: RuntimeConfig) -> Iterator[_Nodes]:
    nodes = _Nodes(runtime)
    try:
        yield nodes
    finally:
        nodes.end()


class _Nodes:
    """The command's process and what comes through it."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._runtime = runtime
        self._command = shlex.join(runtime.node_command)
        self._ending = threading.Event()
        self._heard: dict[int, float] = {}
        self.said: Said = queue.Queue()
        try:
            self._process = subprocess.Popen(
                [*runtime.node_command, sys.executable, "-m", "lorapar_core", "--node"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",  # the command's own words may be anything
                env={k: value for k, value in os.environ.items() if k not in NUMBERS},
                start_new_session=True,  # out of Ctrl-C's reach: that is for us
            )
        except OSError as error:
            raise StageFailed(
                f"runtime.node_command ({self._command}) can't be started: {error.strerror}"
            ) from error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Write a line that all nodes read. A short one is written at once, so that `stop`, called
        from a signal handler, doesn't come into the middle of another."""
        rest = (json.dumps(message) + "\n").encode()
        with suppress(BrokenPipeError):  # its stdout ends too, and tells
            while rest:
                rest = rest[os.write(opened(self._process.stdin).fileno(), rest) :]

    def stop(self) -> None:
        self.tell({"stop": True})

    def begin(self, stop: StopRequest) -> None:
        """Have all nodes start their processes, once each is there and node 0 has the checkpoints.

        Raises:
            Stopped: somebody has asked for it.
            LoraparError: a node refuses, or they don't come.
        """
        nodes, deadline = self._runtime.nodes, time.monotonic() + _COME_S
        threads: dict[int, int] = {}
        address = ""
        while len(threads) < nodes or not address:
            if len(threads) < nodes and time.monotonic() > deadline:
                raise StageFailed(
                    f"{len(threads)} of {nodes} nodes came within {_COME_S:.0f} s of runtime."
                    f"node_command ({self._command}), which has to start the command on each"
                )
            try:
                event = self.said.get(timeout=_POLL_S)[1] or {}
            except queue.Empty:
                event = {}
            if stop.made:
                raise Stopped("stopped while its nodes started")
            if event.get("event") == "error":
                raise error_named(event["kind"], event["message"])
            if event.get("event") == "here":
                threads[event["node"]] = event["threads"]
            address = address or event.get("address", "")
        # All alike, or a resume would find other surroundings.
        share = max(1, min(threads.values()) // self._runtime.processes)
        self.tell({"start": {"address": address, "threads": self._runtime.threads or share}})
        if stop.made:  # before they could heed it
            self.stop()

    def _read(self) -> None:
        """Pass on what the nodes say, and log what others do."""
        messages = Messages()
        for line in opened(self._process.stdout):
            if not messages.ours(line):
                _LOG.info("%s", line.rstrip())
                continue
            try:
                found = messages.take(line)
            except ValueError:
                self._failed(
                    f"a line came torn through runtime.node_command ({self._command}): "
                    f"{line.strip()[:80]}; have it pass on whole lines (srun: no --unbuffered, no "
                    "--label)"
                )
                continue
            if found:
                self._heed(*found)
        self._failed(f"runtime.node_command ({self._command}) {self._how_it_ended()} too early")

    def _heed(self, node: int | None, message: dict[str, Any]) -> None:
        if message.get("event") == "here" and node in self._heard:
            self._failed(
                f"runtime.node_command ({self._command}) has started node {node} twice; have it "
                "start the command once on each node",
                kind=ConfigError,
            )
        elif "rank" in message:
            self.said.put((message["rank"], message["said"]))
        elif message["event"] != "alive":
            self.said.put((_NOBODY, {**message, "node": node}))
        if node is not None:
            self._heard[node] = time.monotonic()

    def _watch(self) -> None:
        while not self._ending.wait(BEAT_S):
            now = time.monotonic()
            silent = [node for node, last in [*self._heard.items()] if now - last > _SILENT_S]
            if silent:
                self._failed(f"node {silent[0]} has said nothing for {_SILENT_S:.0f} s")
                return

    def _failed(self, why: str, *, kind: type[LoraparError] = StageFailed) -> None:
        self.said.put((_NOBODY, failure(kind(why))))

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=_ENDS_S)
        except subprocess.TimeoutExpired:
            return "closed its stdout"
        return f"was killed by signal {-code}" if code < 0 else f"exited with {code}"

    def end(self) -> None:
        """Close stdin, on which nodes end; a command that stays is ended."""
        self._ending.set()
        with suppress(BrokenPipeError):
            opened(self._process.stdin).close()
        for then in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(timeout=_ENDS_S)
                break
            except subprocess.TimeoutExpired:
                then()
        self._process.wait()
        self._reader.join(_ENDS_S)
        if not self._reader.is_alive():  # else somebody has kept the pipe
            opened(self._process.stdout).close()
