"""The sandbox: what passes, what doesn't, and what hostile programs don't get done.

Each hostile program tries something and then defines `done`; its test, which stays outside, asks
whether it could. The corpus of attacks is in test_hostile_programs.py, what tests can use of a
program in test_sandbox_channel.py, bubblewrap and unshare in test_isolation.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import pytest

from lorapar_core.config import Sandbox
from lorapar_core.errors import ConfigError
from lorapar_core.sandbox import outcome, passes, require_sandbox
from lorapar_core.sides import Limits


def can_be_closed(mode: Sandbox) -> bool:
    try:
        require_sandbox(mode)
    except ConfigError:
        return False
    return True


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs seccomp")
NAMESPACES = pytest.mark.skipif(not can_be_closed("isolated"), reason="needs user namespaces")
MODES = [
    pytest.param(mode, marks=[NAMESPACES] if mode == "isolated" else [])
    for mode in get_args(Sandbox)
]
BOTH = pytest.mark.parametrize("mode", MODES)
SHORT = Limits(cpu_s=1, wall_s=20)


def attempt(statement: str) -> str:
    """A program whose `done` says whether the statement went through."""
    body = "\n".join(f"    {line}" for line in statement.splitlines())
    return (
        f"import os, socket, signal, subprocess\ntry:\n{body}\n    done = True\n"
        "except (OSError, MemoryError) as error:\n    done = type(error).__name__\n"
    )


@BOTH
@pytest.mark.parametrize(
    ("program", "tests", "passed"),
    [
        ("def f(x):\n    return x + 1", "assert f(1) == 2", True),
        ("def f(x):\n    return x + 2", "assert f(1) == 2", False),
        ("def f(x:", "", False),
        ("x = 1", "this is no Python", False),
        ("x = '\ud800'", "", False),
        ("def f():\n    return '\\ud800'", "assert f() == '\\ud800'", True),
        ("import math, json, re, collections, itertools, datetime", "", True),
        ("import numpy", "", False),
        ("import lorapar_core", "", False),
        ("import sys\nassert sys.path == [p for p in sys.path if 'lorapar' not in p]", "", True),
        ("open('a', 'w').write('b')\nx = open('a').read()", "assert x == 'b'", True),
        (
            "import threading as t\nx = []\nh = t.Thread(target=x.append, args=[1])\n"
            "h.start(); h.join()",
            "assert x == [1]",
            True,
        ),
        ("def f(n):\n    return f(n + 1)", "f(0)", False),
        ("if __name__ == '__main__':\n    raise ValueError", "", True),
        ("try:\n    input()\nexcept EOFError:\n    x = 1", "assert x == 1", True),
        ("import random\nx = random.random()", f"assert x == {0.8444218515250481}", True),
        ("", f"import random\nassert random.random() == {0.8444218515250481}", True),
        ("print('ready')", "assert False", False),
        (
            "open('/dev/null', 'w').write('a')\nx = open('/dev/null').read()",
            "assert x == ''",
            True,
        ),
        ("import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: 'int' = 1", "A(2)", True),
        (
            "from __future__ import annotations\nimport dataclasses\n"
            "@dataclasses.dataclass\nclass A:\n    x: int = 1",
            "assert A(2) == A(2) != A(3) and A(2).x == 2",
            True,
        ),
        ("import pickle\nclass A: pass\npickle.loads(pickle.dumps(A()))", "", True),
        ("import tempfile\ntempfile.TemporaryFile().write(b'a')", "", True),
    ],
)
def test_what_passes(mode: Sandbox, program: str, tests: str, passed: bool) -> None:
    assert passes(program, tests, sandbox=mode) is passed


@BOTH
@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(0)",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import os; os.write(1, b'ready\\n'); os._exit(0)",
        "import os; [os.write(fd, b'0' * 32) for fd in range(3, 20)]",
        "import atexit; atexit.register(print, 'passed'); raise SystemExit",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.execv('/bin/true', ['true'])",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    ],
)
def test_leaving_before_the_tests_is_no_pass(mode: Sandbox, program: str) -> None:
    assert passes(program, "pass", sandbox=mode, limits=SHORT) is False


@BOTH
def test_leaving_in_the_middle_is_no_pass_and_cannot_be_caught(mode: Sandbox) -> None:
    tests = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert passes("def f(x): raise ValueError", tests, sandbox=mode) is True
    for leaving in ("raise SystemExit", "import os; os._exit(0)", "raise KeyboardInterrupt"):
        assert passes(f"def f(x): {leaving}", tests, sandbox=mode) is False, leaving


@BOTH
def test_an_infinite_loop_ends_by_its_cpu_time(mode: Sandbox) -> None:
    started = time.monotonic()
    program = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    limits = Limits(cpu_s=1, wall_s=300)
    assert outcome(program, "", sandbox=mode, limits=limits) == "out of CPU time"
    assert time.monotonic() - started < 100


@BOTH
def test_a_sleeper_ends_by_the_clock(mode: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = (
        "import ctypes, os, signal, time\n"
        "for s in range(1, 65):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "for leave in (os.setsid, os.setpgrp):\n"
        "    try: leave()\n"
        "    except OSError: pass\n"
        "ctypes.CDLL(None).prctl(1, 0)\n"  # forgo the death signal
        "time.sleep(1000)"
    )
    before = programs_running()
    limits = Limits(cpu_s=1, wall_s=1)
    assert outcome(stubborn, "", sandbox=mode, limits=limits) == "timed out"
    assert "ended after 1 s on the clock" in caplog.text
    left, deadline = programs_running() - before, time.monotonic() + 20
    while left and time.monotonic() < deadline:  # what others run here ends by then
        time.sleep(0.05)
        left &= programs_running()
    assert not left


def programs_running() -> set[str]:
    """Process ids of sandboxes, this test's and others'."""
    found = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"sandboxed/__main__.py" in line.read_bytes():
                found.add(line.parent.name)
        except OSError:  # gone since
            continue
    return found


@BOTH
@pytest.mark.parametrize(
    "program",
    [
        "x = bytes(1 << 31)",
        "x = []\nwhile True: x.append(bytes(1 << 20))",
        "x = 'a' * (1 << 40)",
    ],
)
@LINUX
def test_memory_is_bounded(mode: Sandbox, program: str) -> None:
    assert passes(program, "", sandbox=mode) is False


@BOTH
@LINUX
@pytest.mark.parametrize(
    "statement",
    [
        "os.fork()",
        "while True: os.fork()",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), signal.SIGKILL)",
        "os.kill(1, signal.SIGKILL)",
        "os.kill(-1, signal.SIGKILL)",
        "os.setsid()",
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.create_connection(('127.0.0.1', 80))",
        "os.setuid(12345) if os.getuid() == 0 else os.kill(1, 9)",
        "os.chroot('/')",
        "open('big', 'wb').write(bytes(1 << 21))",
        "x = [open(os.devnull) for _ in range(100)]",
    ],
)
def test_a_hostile_call_is_refused(mode: Sandbox, statement: str) -> None:
    tests = "assert done in ('PermissionError', 'OSError'), done"
    assert passes(attempt(statement), tests, sandbox=mode, limits=SHORT) is True


CALL = (
    "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "def call(*numbers):\n    return libc.syscall(*numbers, 0, 0, 0, 0, 0, 0), ctypes.get_errno()\n"
)


@BOTH
@LINUX
def test_new_kinds_of_calls_are_refused(mode: Sandbox) -> None:
    """io_uring, which could open sockets unseen, and calls by x86's other numbers."""
    tests = "assert call(425) == (-1, 1)\nassert call(0x40000029, 2, 1)[0] == -1"
    assert passes(CALL, tests, sandbox=mode) is True


@BOTH
@LINUX
def test_keyrings_shared_memory_and_other_processes_memory_are_refused(mode: Sandbox) -> None:
    numbers = {
        "x86_64": (248, 249, 250, 310, 311, 29, 68, 64, 240, 53, 59, 322),
        "aarch64": (217, 218, 219, 270, 271, 194, 186, 190, 180, 199, 221, 281),
    }
    refused = (*numbers[os.uname().machine], 438)  # 438: pidfd_getfd
    tests = f"assert [n for n in {refused} if call(n) != (-1, 1)] == []"
    assert passes(CALL, tests, sandbox=mode) is True


@NAMESPACES
def test_files_outside_cannot_be_changed(tmp_path: Path) -> None:
    mine, fresh = tmp_path / "mine", tmp_path / "fresh"
    mine.write_text("mine")
    statements = (
        f"open({str(mine)!r}, 'w')",
        f"open({str(fresh)!r}, 'w')",
        f"os.remove({str(mine)!r})",
        f"os.rename({str(mine)!r}, {str(fresh)!r})",
        f"os.chmod({str(mine)!r}, 0)",
        f"os.mkdir({str(fresh)!r})",
        "open('/dev/shm/lorapar', 'w')",
        "open('/dev/zero')",  # no device but one
        "os.remove('/dev/null')",
        "open('../outside', 'w')",
    )
    for statement in statements:
        tests = "assert done not in (True, 'MemoryError'), done"
        assert passes(attempt(statement), tests, sandbox="isolated") is True, statement
    assert mine.read_text() == "mine"
    assert not fresh.exists()


@NAMESPACES
def test_the_folder_is_small_and_gone_afterwards() -> None:
    fill = "n = 0\nwhile n < 100:\n    open(str(n), 'wb').write(bytes(1 << 20))\n    n += 1"
    tests = "assert done == 'OSError' and 10 < n < 20"
    assert passes(attempt(fill), tests, sandbox="isolated") is True
    program = "import os\nx = os.listdir()"
    assert passes(program, "assert x == []", sandbox="isolated") is True


@BOTH
def test_nothing_is_left_in_the_temporary_directory(
    mode: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert passes("open('a', 'w').write('b')", "", sandbox=mode) is True
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_our_environment_stays_outside(mode: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program = "import os\nfound = dict(os.environ)"
    tests = "assert found.pop('PYTHONHASHSEED') == '0' and not set(found) - {'LC_CTYPE', 'PWD'}"
    assert passes(program, tests, sandbox=mode) is True


@NAMESPACES
def test_processes_outside_cannot_be_looked_at() -> None:
    assert b"PATH=" in Path(f"/proc/{os.getpid()}/environ").read_bytes()  # a test that could fail
    for name in ("environ", "mem", "maps", "cmdline"):
        statement = f"open('/proc/{os.getpid()}/{name}', 'rb').read(100)"
        tests = "assert done == 'FileNotFoundError', done"
        assert passes(attempt(statement), tests, sandbox="isolated") is True, name


@NAMESPACES
def test_named_pipes_in_the_temporary_directory_are_not_there() -> None:
    """A read-only mount would let them be written to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        pipe = Path(folder, "pipe")
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        statement = f"os.write(os.open({str(pipe)!r}, os.O_WRONLY | os.O_NONBLOCK), b'said')"
        assert passes(attempt(statement), "assert done is True", sandbox="limits") is True
        assert os.read(reader, 9) == b"said"
        tests = "assert done == 'FileNotFoundError', done"
        assert passes(attempt(statement), tests, sandbox="isolated") is True
        os.close(reader)


@BOTH
def test_a_flood_of_output_goes_nowhere(mode: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    program = "import os, sys\nfor _ in range(200):\n    print('x' * (1 << 20))\n"
    program += "    sys.stderr.write('y' * (1 << 20))\nos.system('echo z')"
    assert passes(program, "", sandbox=mode) is True
    assert capfd.readouterr() == ("", "")


@BOTH
@pytest.mark.parametrize("word", ["", "ready", "hello"])
def test_what_a_program_does_to_its_channel_stops_no_run(mode: Sandbox, word: str) -> None:
    """It loses its pass by that, but is no failure of the sandbox."""
    program = (
        "import os\nfor fd in range(3, 64):\n    try:\n"
        f"        os.write(fd, {word.encode()!r})\n        os.close(fd)\n    except OSError: pass"
    )
    assert passes(program, "", sandbox=mode, limits=SHORT) is False


@BOTH
def test_a_flood_into_our_own_channel_is_bounded_and_no_pass(mode: Sandbox) -> None:
    program = (
        "import os\nfor fd in range(3, 20):\n    try:\n"
        "        for _ in range(100): os.write(fd, b'x' * (1 << 16))\n"
        "    except OSError: pass"
    )
    assert passes(program, "", sandbox=mode) is False


@BOTH
def test_outcomes_repeat(mode: Sandbox) -> None:
    """The order of a set of texts and the numbers drawn are the same each time."""
    program = "import random\nseen = [*{str(n) for n in range(50)}, random.random()]"
    order = subprocess.run(
        [sys.executable, "-c", f"import random; random.seed(0)\n{program}\nprint(seen)"],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for _ in range(2):
        assert passes(program, f"assert seen == {order}", sandbox=mode) is True
        assert passes("", f"{program}\nassert seen == {order}", sandbox=mode) is True
