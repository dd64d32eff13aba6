"""Training runs that are killed and started again, beside one that isn't."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMED = "metrics.jsonl"
"""The role that tells speeds, and so differs from run to run."""
ROOT = Path(__file__).parents[2]
RUNTIME = {"device": "cpu", "threads": 1, "checkpoint_s": 0}


@dataclass(frozen=True)
class Case:
    """What is trained; the same in every run."""

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Path]
    prepare: str = ""
    """`module:function` that the process calls before it trains."""


@dataclass(frozen=True)
class Ending:
    """What a run came to."""

    outputs: Mapping[str, str]
    """Role -> digest."""
    batches: Counter[tuple[int, str]]
    """Optimizer steps done before, and digest of the batch: how often a loss of it counted."""
    resumed: list[dict[str, Any]]
    """Each resume: its step, and how its surroundings differ."""


class Server:
    """The process that forks (`kill_server`)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kill_server.py"))],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()
        self._answer()

    def _read_stderr(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.said = [*self.said[-40:], line.rstrip()]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "\n".join(self.said)
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, job: Mapping[str, Any], *, kill_after_s: float | None = None) -> int:
        """The forked process's exit code; minus 9 if it was killed."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        pid = self._answer()["pid"]
        timer = threading.Timer(kill_after_s or 0, _kill, [pid])
        if kill_after_s is not None:
            timer.start()
        status: int = self._answer()["status"]
        timer.cancel()
        return status

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        return


@dataclass
class Runs:
    """Runs of one case in a store of their own."""

    server: Server
    case: Case
    folder: Path
    home: Path | None = None

    def run(
        self,
        *,
        at: str | None = None,
        nth: int = 1,
        number: int = signal.SIGKILL,
        kill_after_s: float | None = None,
        file_limit: int = 0,
        **runtime: Any,
    ) -> int:
        """Run it once more; returns the exit code.

        `at` names a point where it gets the signal `number`; `runtime` changes that section.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.server.said.clear()
        inputs = {role: (_digest(path), str(path)) for role, path in self.case.inputs.items()}
        job = {
            "store": str(self.store),
            "stage": self.case.stage,
            "config": self.case.config,
            "inputs": inputs,
            "runtime": {**RUNTIME, **runtime},
            "log": str(self.folder / "batches.jsonl"),
            "home": str(self.home or self.folder),
            "file_limit": file_limit,
            "prepare": self.case.prepare,
            "kill": {"at": at, "nth": nth, "number": number} if at else None,
        }
        return self.server.run(job, kill_after_s=kill_after_s)

    @property
    def store(self) -> Path:
        """Where its artifacts are."""
        return self.folder / "store"

    @property
    def said(self) -> str:
        """What the last run said on stderr."""
        return "\n".join(self.server.said)

    def ending(self) -> Ending:
        """What the store has of it."""
        from artifacts import Store

        (record,) = Store.open(self.store).records()
        outputs = {role: ref.digest for role, ref in record.outputs.items() if role != TIMED}
        return Ending(outputs, self._batches(), record.provenance["resumed"])

    def _batches(self) -> Counter[tuple[int, str]]:
        """Batches that counted: of each step those of the last process that began it."""
        lines = (self.folder / "batches.jsonl").read_text().splitlines()
        steps: dict[int, list[str]] = {}
        before = -1
        for line in lines:
            batch = json.loads(line)
            if "began" in batch:  # a process, which goes on from an earlier step
                before = -1
                continue
            if batch["step"] != before:
                steps[batch["step"]] = []
            steps[batch["step"]].append(batch["batch"])
            before = batch["step"]
        return Counter((step, digest) for step, found in steps.items() for digest in found)


def _digest(path: Path) -> str:
    """Of a file's content, or of a directory's files."""
    paths = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in paths:
        digest.update(file.read_bytes())
    return digest.hexdigest()
