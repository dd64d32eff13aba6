"""Attacks on the sandbox: none works inside, and those that mean no harm do work outside."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hostile_programs import ATTACKS, FORGING, LOOT, SECRET, TASK, Attack, attack, baits, survivors
from human_eval import canonical
from mutants import failing_mutant, mutants, plainly

from lorapar_core.sandbox import CodeCheck, check_all, check_outcome, passes
from lorapar_core.sides import Limits
from tests.unit.core.test_sandbox import NAMESPACES

SHORT = Limits(cpu_s=1, wall_s=5)


def test_the_corpus_is_what_it_says() -> None:
    assert len({one.name for one in ATTACKS}) == len(ATTACKS) >= 40
    with baits() as bait:
        for one in ATTACKS:
            compile(bait.placed(one.program), one.name, "exec")


@pytest.mark.parametrize("one", [a for a in ATTACKS if a.naive], ids=lambda a: a.name)
def test_an_attack_works_where_nothing_is_around_it(one: Attack) -> None:
    """Program and tests in one interpreter: what the sandbox is there for."""
    with baits() as bait:
        both = f"{bait.placed(one.program)}\n{one.tests}\ncheck(triple)"
        done = subprocess.run([sys.executable, "-c", both], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@NAMESPACES
@pytest.mark.slow
def test_no_attack_works() -> None:
    counts = attack(len(ATTACKS), sandbox="isolated", workers=2, limits=SHORT)
    assert (counts.worked, counts.leaks, counts.false_passes, counts.survivors) == ((), 0, 0, 0)


@NAMESPACES
def test_quick_attacks_do_not_work() -> None:
    """Those that use nothing up, in every run of the tests."""
    quick = [a for a in ATTACKS if a.tests == LOOT][::3]
    with baits() as bait:
        jobs = [CodeCheck(bait.placed(a.program), a.tests, "triple") for a in quick]
        passed = check_all(jobs, sandbox="isolated", workers=2, limits=SHORT)
        assert [a.name for a, through in zip(quick, passed, strict=True) if through] == []
        assert bait.taken() == []
    assert survivors() == []


@NAMESPACES
@pytest.mark.parametrize(
    "one", [a for a in ATTACKS if a.naive and a.tests == TASK], ids=lambda a: a.name
)
def test_a_rows_own_tests_are_not_deceived_either(one: Attack) -> None:
    """There classes give objects, which is more to pretend with."""
    assert passes(one.program, f"{TASK}\ncheck(triple)", sandbox="isolated", limits=SHORT) is False


def test_the_baits_notice() -> None:
    """A test that could fail: with `limits`, files and pipes are as open as this user is."""
    program = (
        "open('<FOLDER>/left', 'w').write('x')\nopen('<FILE>', 'a').write('x')\n"
        "import os\nos.write(os.open('<PIPE>', os.O_WRONLY | os.O_NONBLOCK), b'x')\n"
        "def triple(x): return '<SECRET>' in open('<FILE>').read()"
    )
    with baits() as bait:
        assert SECRET in os.environ.values()
        found = check_outcome(
            bait.placed(program), tests=LOOT, entry_point="triple", sandbox="limits"
        )
        taken = ["a file was left", "a file was changed", "a pipe was written to"]
        assert (found, bait.taken()) == ("passed", taken)


def test_forging_reaches_the_channel() -> None:
    """So that the corpus' forged answers are read, and refused for what they are: one that answers
    the question that was asked is as good as a result."""
    tests = "def check(candidate):\n    assert candidate(1) == 3"
    program = FORGING + "import time\ndef triple(x):\n    forge([{}, 'value', 3, None])\n    {}"
    for number, expected in ((2, "passed"), (3, "failed")):
        found = check_outcome(
            program.format(number, "time.sleep(1000)"),
            tests=tests,
            entry_point="triple",
            sandbox="limits",
            limits=SHORT,
        )
        assert found == expected


SOLUTION = "def f(x):\n    if x < 2 or x == 5:\n        return x + 1\n    return True"


def test_mutants_change_one_thing_each() -> None:
    texts = [*mutants(SOLUTION, "f")]
    assert len(set(texts)) == len(texts) > 8
    assert "def f(x):\n    if x >= 2 or x == 5:\n        return x + 1\n    return True" in texts
    assert texts[-1].endswith("return None\n")


def test_a_mutant_that_nobody_notices_is_replaced() -> None:
    tests = "def check(candidate):\n    assert candidate(1) == 2"
    mutant = failing_mutant(CodeCheck(SOLUTION, tests, "f"))
    assert plainly(mutant) == "fails"
    assert mutant.program != SOLUTION
    with pytest.raises(ValueError, match="the tests of f pass a function that returns None"):
        failing_mutant(CodeCheck(SOLUTION, "def check(candidate): pass", "f"))


@NAMESPACES
@pytest.mark.slow
@pytest.mark.real_data
def test_human_eval(shared_data: os.PathLike[str]) -> None:
    """Every canonical solution passes, and a mutant of each fails."""
    problems = canonical(shared_data / "humaneval" / "HumanEval.jsonl.gz")  # type: ignore[operator]
    assert len(problems) == 164
    assert check_all(problems, sandbox="isolated", workers=2) == [True] * 164
    mutated = [failing_mutant(problem) for problem in problems]
    assert check_all(mutated, sandbox="isolated", workers=2) == [False] * 164
