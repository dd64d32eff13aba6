"""A program's clock starts when both sides are ready, and what becomes of it is told."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from lorapar_core import sandbox, sides
from lorapar_core.errors import ConfigError, SandboxError, SandboxLate
from lorapar_core.isolation import Tool, sandboxed_command
from lorapar_core.sandbox import outcome, require_sandbox
from lorapar_core.sides import Limits, Trusted, run_apart
from tests.unit.core.test_isolation import EACH
from tests.unit.core.test_sandbox import programs_running

Delay = Callable[..., list[int]]
RIGHT = ("x = 1", Trusted("assert x == 1", names=("x",)))
FOREVER = 1000


@pytest.fixture
def delayed(monkeypatch: pytest.MonkeyPatch) -> Delay:
    """Have processes start that many seconds late, in the order in which they are started: of each
    try the program's, then the tests'. Then at once. What was asked to start is kept."""

    def delay(*seconds: float) -> list[int]:
        left: Iterator[float] = chain(seconds, repeat(0.0))
        started: list[int] = []

        def late(tool: Tool | None) -> tuple[list[str], dict[str, object]]:
            command, root = sandboxed_command(tool)
            started.append(len(started))
            return ["/bin/sh", "-c", f'sleep {next(left)}; exec "$@"', "sh", *command], root

        monkeypatch.setattr(sides, "sandboxed_command", late)
        return started

    return delay


@pytest.mark.parametrize("seconds", [(2, 0), (0, 2)], ids=str)
def test_a_slow_start_is_no_wrong_program(delayed: Delay, seconds: tuple[float, ...]) -> None:
    """Slower than all of a program's time on the clock."""
    delayed(*seconds)
    assert run_apart(*RIGHT, tool=None, limits=Limits(wall_s=1.5)) == "passed"


def test_no_code_of_the_program_runs_before_the_tests_are_ready(delayed: Delay) -> None:
    delayed(0, 2)
    program = "import time\nbegan = time.monotonic()"
    tests = Trusted("import time\nassert time.monotonic() - began < 1.5", names=("began",))
    assert run_apart(program, tests, tool=None, limits=Limits()) == "passed"


def test_a_program_has_its_time_whoever_was_late(delayed: Delay) -> None:
    delayed(1, 1)
    started = time.monotonic()
    program = "import time\ntime.sleep(1000)"
    assert run_apart(program, Trusted(""), tool=None, limits=Limits(wall_s=1)) == "timed out"
    assert 2 <= time.monotonic() - started < 30


def test_a_start_that_hangs_is_tried_once_more(delayed: Delay) -> None:
    started = delayed(0, FOREVER)
    assert run_apart(*RIGHT, tool=None, limits=Limits(start_s=3)) == "passed"
    assert len(started) == 4


@pytest.mark.parametrize(
    ("seconds", "start_s", "who"),
    [
        ((0, FOREVER, 0, FOREVER), 2, "the tests"),
        ((0, FOREVER, FOREVER, FOREVER), 0.5, "the program and the tests"),
    ],
)
def test_a_start_that_hangs_twice_is_an_error_and_no_verdict(
    delayed: Delay, seconds: tuple[float, ...], start_s: float, who: str, tmp_path: Path
) -> None:
    started, before = delayed(*seconds), programs_running()
    touched = tmp_path / "touched"
    program = f"open({str(touched)!r}, 'w').close()"
    with pytest.raises(SandboxError) as one:
        run_apart(program, Trusted(""), tool=None, limits=Limits(start_s=start_s))
    assert str(one.value) == (
        f"Python had no process ready for {who} in {start_s} s, nor in a second try; if this "
        "machine is too busy, run less on it at a time (fewer runtime.threads), else find out why "
        "Python hangs"
    )
    assert len(started) == 4
    assert not touched.exists()
    assert not programs_running() - before


def test_a_program_whose_tests_come_late_isnt_run(delayed: Delay, tmp_path: Path) -> None:
    """Nor while it is ended: they would ask a moment later."""
    delayed(0, 1.3, 0, 1.3)
    touched = tmp_path / "touched"
    program = f"open({str(touched)!r}, 'w').close()"
    with pytest.raises(SandboxLate):
        run_apart(program, Trusted("x = 1"), tool=None, limits=Limits(start_s=1))
    assert not touched.exists()


def test_a_slow_start_is_no_reason_for_a_weaker_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def late(*_: object, tool: Tool, **_how: object) -> None:
        tried.append(tool.name)
        raise SandboxLate("too late")

    monkeypatch.setattr(sandbox, "run_apart", late)
    monkeypatch.setattr(sandbox, "tools", lambda: (Tool("bubblewrap", "b"), Tool("unshare", "u")))
    monkeypatch.setattr(sandbox, "_found", {})
    with pytest.raises(ConfigError, match="too late") as refused:
        require_sandbox("isolated")
    assert tried == ["bubblewrap"]
    assert "runtime.sandbox: limits" not in str(refused.value)


def test_where_nobody_waits_for_children_programs_are_run_all_the_same() -> None:
    """A supervisor may have left SIGCHLD ignored."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    opened = len([*Path("/proc/self/fd").iterdir()])
    try:
        assert run_apart(*RIGHT, tool=None, limits=Limits()) == "passed"
        wrong = Trusted("assert x == 2", names=("x",))
        assert run_apart("x = 1", wrong, tool=None, limits=Limits()) == "failed"
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert len([*Path("/proc/self/fd").iterdir()]) == opened


def test_a_side_that_fails_to_start_says_why_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_tool: Tool | None) -> tuple[list[str], dict[str, object]]:
        return ["/bin/sh", "-c", "echo no room >&2"], {}

    monkeypatch.setattr(sides, "sandboxed_command", failing)
    with pytest.raises(SandboxError, match="can't be closed: no room"):
        run_apart(*RIGHT, tool=None, limits=Limits())


LOOP = "def f():\n    while True: pass"
HALF = (
    "import time\ndef f():\n    begun = time.process_time()\n"
    "    while time.process_time() - begun < 0.6: pass"
)


@EACH
@pytest.mark.parametrize(
    ("program", "tests", "expected"),
    [
        ("x = 1", "assert x == 1", "passed"),
        ("x = 1", "assert x == 2", "failed"),
        ("x = ", "", "failed"),
        ("x = bytes(1 << 31)", "", "failed"),
        ("raise SystemExit(0)", "", "failed"),
        ("import os; os._exit(137)", "", "failed"),  # bubblewrap's own code for what was killed
        ("import os; os._exit(1)", "", "failed"),
        ("import os; os.closerange(3, 64)", "", "failed"),
        (LOOP, "f()", "out of CPU time"),
        ("x = 1", "while x: pass", "out of CPU time"),
        (HALF, "f(); assert False", "failed"),
        (HALF, "f(); f()", "out of CPU time"),
    ],
)
def test_what_became_of_a_program(tool: Tool, program: str, tests: str, expected: str) -> None:
    trusted = Trusted(tests, names=("x", "f"))
    limits = Limits(cpu_s=1, wall_s=60)
    assert run_apart(program, trusted, tool=tool, limits=limits) == expected


def test_tests_that_are_no_python_fail() -> None:
    assert outcome("x = 1", "assert x = 1", sandbox="limits") == "failed"


def test_only_a_program_that_timed_out_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lorapar.sandbox"):
        run_apart(LOOP, Trusted("f()", names=("f",)), tool=None, limits=Limits(cpu_s=1, wall_s=60))
        assert not caplog.records
        run_apart(LOOP, Trusted("f()", names=("f",)), tool=None, limits=Limits(wall_s=1))
    assert [r.message for r in caplog.records] == ["a program was ended after 1 s on the clock"]
