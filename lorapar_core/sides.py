"""A program and its tests, each a process in a sandbox of its own: start both, hear the verdict.

Each side says that it is ready when its sandbox is closed. The program's text waits for the tests'
first question, which they ask once they are ready, and its clock starts when both have said so. So
no program is wrong because a machine is slow to start processes, and none can hold up or forge what
is said before any of it is run. Starting has a limit of its own, which is no verdict.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import IO, Literal

from lorapar_core.errors import SandboxError, SandboxLate
from lorapar_core.isolation import Tool, sandboxed_command

Outcome = Literal["passed", "failed", "out of CPU time", "timed out"]
"""What became of a program. *failed*: by its tests or by itself, as by running out of memory;
*out of CPU time*: it failed, and it or its tests took nearly all of `Limits.cpu_s`; *timed out*: on
the clock."""

_LOGGER = logging.getLogger("lorapar.sandbox")
_PAUSE_S = 0.002
_PATIENCE_S = 0.5
_NEARLY = 0.85
"""The share of `Limits.cpu_s` that a side took which the kernel ended for it: the limit counts by
ticks, which on a busy machine are a tenth or more off what `wait4` tells."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use, and its tests as well."""

    cpu_s: int = 4
    """CPU seconds."""
    wall_s: float = 15.0
    """Seconds on the clock, for both together, from the moment that both are ready."""
    start_s: float = 60.0
    """Seconds on the clock until both are ready; they decide nothing of the program."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file: int = 1 << 20
    """Bytes of a file; `isolated` has room for 16 such files, `limits` for any number."""
    message: int = 1 << 20
    """Bytes of one call's arguments, or of its result."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the tests' side is given: see `sandboxed.tests.hold`."""

    tests: str
    helpers: str = ""
    entry_point: str = ""
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def run_apart(program: str, trusted: Trusted, *, tool: Tool | None, limits: Limits) -> Outcome:
    """Start both sides, wait for the verdict, and leave nothing of them.

    Raises:
        SandboxError: one of them couldn't be closed; none of the program was run.
        SandboxLate: one of them wasn't ready in time, twice; none either.
    """
    late: list[str] = []
    for _ in range(2):
        with ExitStack() as stack:
            proof = secrets.token_hex(16)
            verdict, sides = _started(program, trusted, proof, tool, limits, stack)
            deadline = time.monotonic() + limits.start_s
            late = [side.role for side in sides if not side.is_ready(deadline)]
            if not late:
                return _outcome(verdict, proof, sides, limits)
            for side in sides:  # the program first: it runs once the tests ask
                side.kill()
    what = tool.path if tool else "Python"
    raise SandboxLate(
        f"{what} had no process ready for the {' and the '.join(late)} in {limits.start_s:g} s, "
        "nor in a second try; if this machine is too busy, run less on it at a time (fewer "
        f"runtime.threads), else find out why {what} hangs"
    )


def _started(
    program: str,
    trusted: Trusted,
    proof: str,
    tool: Tool | None,
    limits: Limits,
    stack: ExitStack,
) -> tuple[int, list[_Side]]:
    """The pipe that the verdict comes through, and both sides, which end with the stack."""
    asked, question = os.pipe()
    told, answer = os.pipe()
    heard, verdict = os.pipe()
    stack.callback(os.close, heard)
    common = {"limits": asdict(limits)}
    sides = []
    try:
        for job, ends in (
            ({"role": "program", "program": program}, {"reads": asked, "writes": answer}),
            (
                {"role": "tests", "proof": proof, **asdict(trusted)},
                {"reads": told, "writes": question, "verdict": verdict},
            ),
        ):
            sides.append(_Side({**common, **job}, ends, tool))
            stack.callback(sides[-1].end)
    finally:  # an end that we held too would keep the other side waiting for ever
        for descriptor in (asked, question, told, answer, verdict):
            os.close(descriptor)
    return heard, sides


def _outcome(verdict: int, proof: str, sides: list[_Side], limits: Limits) -> Outcome:
    said = _heard(verdict, time.monotonic() + limits.wall_s)
    if said == proof:
        return "passed"
    if said is None:
        _LOGGER.warning("a program was ended after %.0f s on the clock", limits.wall_s)
        return "timed out"
    if said:
        _LOGGER.warning("no program can pass these tests: they %s", said)
        return "failed"
    for side in sides:
        side.end()
    spent = max(side.cpu_s for side in sides)
    return "out of CPU time" if spent > _NEARLY * limits.cpu_s else "failed"


def _heard(pipe: int, deadline: float) -> str | None:
    """What came through the pipe; "" if it was closed before, None at the deadline."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        return None
    return os.read(pipe, 4096).decode(errors="replace")


class _Side:
    """One of the two processes, with the process that made its namespaces.

    What it is given and what it complains of go through files: a file is never full before the
    reader comes, and `limits.file` bounds what can be written to it. That it is ready comes through
    a pipe, whose end it closes before it runs anything.
    """

    def __init__(self, job: dict[str, object], ends: dict[str, int], tool: Tool | None) -> None:
        self.role = str(job["role"])
        self.cpu_s = 0.0
        self._stack = ExitStack()
        given, self._complaint = (self._file() for _ in range(2))
        folder = "/"
        if tool is None:
            here = tempfile.TemporaryDirectory(prefix="lorapar-sandbox-")
            folder = self._stack.enter_context(here)
        command, root = sandboxed_command(tool)
        given.write(json.dumps({**job, **ends, **root}).encode())
        given.seek(0)
        self._said, says = os.pipe()
        self._stack.callback(os.close, self._said)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=given,
                stdout=says,
                stderr=self._complaint,
                pass_fds=[*ends.values()],
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        except OSError as error:
            self._stack.close()
            raise SandboxError(f"{command[0]} can't be started: {error.strerror}") from error
        finally:
            os.close(says)

    def _file(self) -> IO[bytes]:
        return self._stack.enter_context(tempfile.TemporaryFile())

    def is_ready(self, deadline: float) -> bool:
        """Whether its sandbox is closed before the deadline.

        Raises:
            SandboxError: it can't be closed, with the reason.
        """
        said = _heard(self._said, deadline)
        if said not in ("ready", None):
            self._complaint.seek(0)
            complaint = self._complaint.read().decode(errors="replace")
            reason = " ".join(complaint.split()[-40:])
            raise SandboxError(f"the sandbox can't be closed: {reason or 'no reason given'}")
        return said is not None

    def end(self) -> None:
        """End all of its processes: they can leave neither session nor group.

        First they may end by themselves, as they do when the other side has ended: what is killed
        together with the process that made its namespaces is left, dead, to the machine's init,
        which a container may not have.
        """
        try:
            self._wait(_PATIENCE_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End them now. `cpu_s` tells then what they took."""
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses for one that has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            _, status, used = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_s = used.ru_utime + used.ru_stime
        except ChildProcessError:  # SIGCHLD is ignored, so the kernel has forgotten it
            self._process.returncode = 0
        finally:
            self._stack.close()

    def _wait(self, patience_s: float) -> None:
        """Until it has ended. It is not reaped, so that its group's number stays its own."""
        if self._process.returncode is not None or not hasattr(os, "waitid"):  # macOS
            return
        deadline = time.monotonic() + patience_s
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        with suppress(ChildProcessError):
            while not os.waitid(os.P_PID, self._process.pid, options):
                if time.monotonic() > deadline:
                    return
                time.sleep(_PAUSE_S)
