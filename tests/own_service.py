"""A Prefect server and worker of a test's own, started by `lorapar up` in an empty home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Service:
    """A server and a worker of our own, with the home they live in."""

    home: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LORAPAR_STORE": str(self.home / "store"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
        }

    def lorapar(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("flows.cli", *arguments)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("prefect", *arguments)

    def begun(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of this home that goes on by itself."""
        command = [sys.executable, "-m", module, *arguments]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=quiet, stderr=quiet)

    def _run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_run(self) -> dict[str, Any]:
        """The flow run that was made last."""
        runs = self.post("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
        found: dict[str, Any] = runs[0]
        return found

    def runs_of(self, flow: str) -> list[dict[str, Any]]:
        """The runs of a flow, in the order in which they were made."""
        filters = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = self.post("flow_runs/filter", filters)
        return found

    def children(self) -> list[psutil.Process]:
        """The processes that run stages."""
        return [process for process in self.processes() if _is_child(process)]

    def task_states(self) -> dict[str, str]:
        """Name of each task run's state, of the latest run of that name."""
        runs = self.post("task_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        return {run["name"]: run["state_name"] for run in runs}

    def processes(self) -> list[psutil.Process]:
        """Every process that has this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:  # it ended meanwhile, or is not ours to look at
                continue
        return found


def _is_child(process: psutil.Process) -> bool:
    try:
        return "--serve" in process.cmdline()
    except psutil.Error:
        return False


def wait_for(what: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.2)
