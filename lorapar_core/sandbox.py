"""Run a program that a model wrote, and a row's tests on it, apart from the rest of the machine.

Each program gets a fresh interpreter with the standard library alone (`python -P -s -S`: `-I` but
for the hash seed, which it would not let us fix), an empty environment, no input, and output to
nowhere. `sandboxed` closes the sandbox from inside before the program starts:

- limits on CPU time, address space, file size and open files;
- no privileges; and on Linux no new processes, no signals to others, no sockets, no keyrings and no
  calls for other processes' memory (seccomp).

`isolated` adds namespaces (`unshare`: user, network, process ids, mounts, IPC), in which all files
are read-only but those of a small folder in memory that is gone afterwards, processes outside can't
be named, and /proc, /run and /tmp are empty (unless Python itself is in there). A program can still
*read* files that this user can read elsewhere. One bit of it comes out, unless a process outside
reads a named pipe in one of those other places: writing to a pipe is no change of a file.

`limits` does without namespaces, where a machine or container has none. Then a program can change
this user's files and fill its disks (the limit on size is one file's, not their number), read the
command lines and the environment of this user's processes, with the API keys in it, and through
/proc also change their memory where the kernel lets it (Yama's ptrace_scope 0): it protects against
accidents, not against ill will. macOS has no seccomp either, only the limits that its kernel keeps;
that was not tried.

A program passes if it and then its tests run to their end: what must come out is a random word that
is told after the tests, and nothing else. Leaving early, with whatever status, is no pass. But
program and tests share one interpreter, so a program that sets out to cheat can: it may find the
word, or give back objects that equal everything. The sandbox protects the machine, not the reward.

The limit that decides is CPU time; that on the clock is some times as long, for programs that
sleep. Hash seed and `random` are fixed, so that outcomes repeat; a program that reads clocks or the
system's randomness, or takes nearly all of its CPU time, may still differ.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from lorapar_core.config import Sandbox
from lorapar_core.errors import ConfigError, SandboxError

_LOGGER = logging.getLogger("lorapar.sandbox")
_INSIDE = Path(__file__).with_name("sandboxed.py")
_NAMESPACES = ("--user", "--map-root-user", "--net", "--pid", "--mount", "--ipc")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use."""

    cpu_s: int = 4
    """CPU seconds."""
    wall_s: float = 15.0
    """Seconds on the clock."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file: int = 1 << 20
    """Bytes of a file; `isolated` has room for 16 such files, `limits` for any number."""


LIMITS = Limits()


def passes(program: str, tests: str, *, sandbox: Sandbox, limits: Limits = LIMITS) -> bool:
    """Whether the program, and then the tests in its namespace, run to their end.

    Raises:
        SandboxError: the sandbox couldn't be closed; nothing was run.
    """
    proof = secrets.token_hex(16)
    job = {
        "program": program,
        "tests": tests,
        "proof": proof,
        "isolated": sandbox == "isolated",
        "limits": asdict(limits),
    }
    ready, found, complaint = _said(job, command=_command(sandbox), limits=limits)
    if ready != "ready":
        raise SandboxError(f"the sandbox can't be closed: {complaint or 'no reason given'}")
    return found == proof


def require_sandbox(sandbox: Sandbox) -> None:
    """Refuse to start where programs can't be run apart.

    Raises:
        ConfigError: with the reason, and what to do.
    """
    try:
        passes("", "", sandbox=sandbox)
    except SandboxError as error:
        way_out = (
            "; run on Linux with util-linux and user namespaces, or set runtime.sandbox: limits, "
            "which lets what the model writes change your files and read your processes' "
            "environment"
            if sandbox == "isolated"
            else ""
        )
        raise ConfigError(f"rewards that run code need a sandbox, and {error}{way_out}") from error


def _command(sandbox: Sandbox) -> list[str]:
    python = [sys.executable, "-P", "-s", "-S", str(_INSIDE)]
    if sandbox == "limits":
        return python
    unshare = shutil.which("unshare")
    if unshare is None:
        raise SandboxError("the sandbox can't be closed (there is no `unshare`)")
    return [unshare, *_NAMESPACES, "--fork", "--kill-child", "--", *python]


def _said(job: dict[str, object], *, command: list[str], limits: Limits) -> tuple[str, str, str]:
    """What the sandbox said before the program, what came after it, and what went wrong on its way.

    All goes through files: a file is never full before the reader comes, and `limits.file` bounds
    what can be written to it. The program holds the second one alone, and may ruin it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lorapar-sandbox-") as folder,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as channel,
        tempfile.TemporaryFile() as complaint,
    ):
        given.write(json.dumps({**job, "channel": channel.fileno()}).encode())
        given.seek(0)
        process = subprocess.Popen(
            command,
            stdin=given,
            stdout=said,
            stderr=complaint,
            pass_fds=[channel.fileno()],
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        _end(process, limits)
        return _text(said), _text(channel), " ".join(_text(complaint).split()[-40:])


def _end(process: subprocess.Popen[bytes], limits: Limits) -> None:
    """Wait for its end, and see to it that there is one."""
    try:
        process.wait(timeout=limits.wall_s)
    except subprocess.TimeoutExpired:
        _LOGGER.warning("a program was ended after %.0f s on the clock", limits.wall_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it can leave neither session nor group
            process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
