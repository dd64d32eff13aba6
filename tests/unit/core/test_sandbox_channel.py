"""The channel between a program and its tests: what comes through, and what tests can use."""

from __future__ import annotations

import json
import logging
import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lorapar_core.row_tests import names_taken
from lorapar_core.sandbox import CodeCheck, check_all, check_outcome, passes
from lorapar_core.sandboxed.channel import _KINDS, Channel, ChannelError, decoded, encoded
from lorapar_core.sides import Limits

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(alphabet="\ud800\0é")
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.builds(range, st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 9))
)


def containers(inner: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(SCALARS, inner)
        | st.sets(SCALARS)
        | st.frozensets(SCALARS)
        | st.binary().map(bytearray)
    )


VALUES = st.recursive(SCALARS, containers, max_leaves=20)


def refuse(*_: object) -> Any:
    raise TypeError("no literal")


def through(value: object) -> Any:
    return decoded(json.loads(json.dumps(encoded(value, refuse))), refuse)


def same(one: object, other: object) -> bool:
    """Equal, and of the same types all through."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    if isinstance(one, dict):
        return same([*one.items()], [*other.items()])  # type: ignore[attr-defined]
    return one == other


@given(VALUES)
def test_a_value_comes_through_as_it_was(value: object) -> None:
    assert same(through(value), value)


def test_what_a_text_format_could_lose_comes_through() -> None:
    assert math.isnan(through(float("nan")))
    assert through([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert math.copysign(1, through(-0.0)) == -1
    assert through(10**100_000) == 10**100_000  # over Python's limit on digits
    assert list(through(iter([1, 2]))) == [1, 2]
    assert through({1: 2}.keys()) != {1}


@pytest.mark.parametrize("base", [int, float, str, list, tuple, dict, set, frozenset, bytes])
def test_a_subclass_arrives_as_the_type_of_python_that_it_comes_from(base: type) -> None:
    pretending = type("Pretending", (base,), {"__eq__": lambda *_: True, "__hash__": lambda _: 0})
    arrived = through(pretending())
    assert type(arrived) is base
    assert arrived == base()
    assert arrived != object()


@pytest.mark.parametrize("value", [object(), print, lambda: 1, ValueError(), Channel, 1j.__class__])
def test_what_there_is_no_literal_of_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no literal"):
        encoded([value], refuse)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*_KINDS, "handle", "callback", "eval", "__class__"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=20,
)


@given(JSON)
def test_whatever_the_other_side_says_is_a_plain_value_or_refused(data: object) -> None:
    plain = (type(None), bool, int, float, str, bytes, bytearray, complex, range, dict, list, tuple)
    plain += (set, frozenset, type(iter([])))
    try:
        value = decoded(data, refuse)
    except (ChannelError, TypeError, ValueError):
        return
    assert type(value) in plain


def pipes(most: int = 1000) -> tuple[Channel, int]:
    """A channel, and the end that its messages are written to."""
    reads, writes = os.pipe()
    return Channel(reads, os.open(os.devnull, os.O_WRONLY), most=most), writes


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "has ended"),
        (b"\0\0", "has ended"),
        (b"\0\0\0\x05[1,2", "has ended"),
        (b"\0\0\xff\xff[]", "over 1000"),
        (b"\xff\xff\xff\xff", "over 1000"),
        (b"\0\0\0\x02[}", "no message"),
        (b"\0\0\0\x02\xff\xff", "no message"),
        (b"\0\0\x03\xe8" + b"[" * 1000, "no message"),
        (b"\0\0\0\0", "no message"),
    ],
)
def test_a_message_that_is_none_is_refused(raw: bytes, why: str) -> None:
    channel, writes = pipes()
    os.write(writes, raw)
    os.close(writes)
    with pytest.raises(ChannelError, match=why):
        channel.receive()


def test_a_message_that_is_too_long_is_not_sent() -> None:
    channel, _ = pipes(most=20)
    channel.send("x" * 18)
    with pytest.raises(ChannelError, match="21 bytes, over 20"):
        channel.send("x" * 19)


def test_what_comes_before_its_question_is_refused() -> None:
    channel, writes = pipes()
    channel.require_silence()
    os.write(writes, b"\0")
    with pytest.raises(ChannelError, match="before its question"):
        channel.require_silence()


def test_who_waits_goes_on_at_the_first_word_and_not_at_the_end() -> None:
    channel, writes = pipes()
    os.write(writes, b"\0")
    os.close(writes)
    channel.wait()
    channel, writes = pipes()
    os.close(writes)
    with pytest.raises(ChannelError, match="has ended"):
        channel.wait()


PROGRAM = """
import collections, functools
class Stack:
    limit = 3
    def __init__(self, *parts): self.parts = list(parts)
    def push(self, part):
        if len(self.parts) == self.limit: raise Full(part)
        self.parts.append(part)
        return self
    def pop(self): return self.parts.pop()
    def __len__(self): return len(self.parts)
    def __getitem__(self, n): return self.parts[n]
    def __setitem__(self, n, part): self.parts[n] = part
    def __eq__(self, other): return self.parts == other.parts
    def __add__(self, other): return Stack(*self.parts, *other.parts)
    def __lt__(self, other): return len(self) < len(other)
    def __repr__(self): return f'Stack{tuple(self.parts)}'
    @classmethod
    def of(cls, text): return cls(*text)
class Full(LookupError): pass
class Wild(Stack):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    def __contains__(self, part): return True
SIZE = 7
def double(x): return 2 * x
def pair(a, *, b=1): return a, b
def order(l): l.sort()
def fill(d, s): d['a'] = 1; s.add(2)
def sneaky(l): l.clear(); return l
def apply(f, x): return f(x)
def fails(kind):
    kinds = {'v': ValueError, 'k': KeyError, 's': StopIteration, 'f': Full}
    raise kinds[kind](kind, 1)
def decodes(): return b'\\xff'.decode()
def odd(): return object()
def wild(): return Wild()
def counts(text): return collections.Counter(text)
def numbers(): yield from (1, 2, 3)
@functools.lru_cache
def cached(x): return x
def sorted(x): return [0]
def abs(x): return 0
math = Wild()
"""


@pytest.mark.parametrize(
    ("tests", "passed"),
    [
        ("assert double(2) == 4 and double('a') == 'aa' and double([1]) == [1, 1]", True),
        ("assert pair(1) == (1, 1) and pair(1, b=2) == (1, 2) and SIZE == 7", True),
        ("try: pair(1, 2)\nexcept TypeError: pass\nelse: assert False", True),
        ("assert cached(3) == 3 and counts('aab') == {'a': 2, 'b': 1}", True),
        ("assert list(numbers()) == [1, 2, 3]", True),
        ("assert numbers() == [1, 2, 3]", False),  # a generator is no list
        ("assert list(map(double, [1, 2])) == [2, 4]", True),
        ("def check(candidate):\n    assert candidate(2) == 4\ncheck(double)", True),
        ("assert missing(1) is None", False),
        # In place.
        ("x = [3, 1, 2]\norder(x)\nassert x == [1, 2, 3]", True),
        ("x, y = {}, set()\nassert fill(x, y) is None and x == {'a': 1} and y == {2}", True),
        ("x = [1]\nassert sneaky(x) == [] and x == [1]", True),
        # Exceptions.
        ("try: fails('v')\nexcept ValueError as e: assert e.args == ('v', 1)", True),
        ("try: fails('k')\nexcept LookupError as e: assert type(e) is KeyError", True),
        ("try: fails('f')\nexcept Full as e: assert isinstance(e, LookupError)", True),
        ("try: fails('f')\nexcept KeyError: pass", False),
        ("try: decodes()\nexcept UnicodeDecodeError: pass\nelse: assert False", True),
        ("assert all(map(fails, 's')) and not list(map(fails, 's'))", False),
        ("try: fails('s')\nexcept RuntimeError: pass", True),
        # Objects.
        ("s = Stack(1)\ns.push(2)\nassert len(s) == 2 and s[1] == 2 and s.pop() == 2", True),
        ("s = Stack(1, 2)\ns[0] = 5\nassert list(s) == [5, 2] and repr(s) == 'Stack(5, 2)'", True),
        ("assert Stack(1) == Stack(1) and Stack(1) != Stack(2) and Stack() < Stack(1)", True),
        ("assert Stack(1) + Stack(2) == Stack.of([1, 2])", True),
        ("assert isinstance(Stack(), Stack) and not isinstance(3, Stack)", True),
        ("s = Stack()\ns.limit = 0\ntry: s.push(1)\nexcept Full: pass\nelse: assert False", True),
        ("s = Stack()\nassert s.push(1) is s and s.parts == [1] and Stack.limit == 3", True),
        ("assert Wild() == 3", False),
        ("assert Wild() - 3 == 0", False),
        ("assert 3 in Wild()", False),
        ("assert [Wild()] == [3]", False),
        ("assert wild() is not None", False),  # a function's result is a value
        ("assert odd() is not None", False),
        # The tests' own functions.
        ("assert apply(lambda x: x + 1, 3) == 4 and apply(double, 3) == 6", True),
        ("assert apply(lambda x: double(x) + 1, 3) == 7", True),
        (
            "try: apply(lambda x: 1 / x, 0)\nexcept ZeroDivisionError: pass\nelse: assert False",
            True,
        ),
        # Python's own names are the tests'.
        ("assert sorted(double([2, 1])) == [1, 1, 2, 2]", True),
        ("assert sorted(double([2, 1])) == [0]", False),
        ("assert abs(double(1) - 9) < 1", False),
        ("assert math.isclose(double(0.1), 0.2)", True),
        ("assert math.isclose(double(0.1), 9)", False),
        ("assert abs(-3) == 0", True),  # a task `abs`: the tests name nothing else
    ],
)
def test_what_tests_can_use_of_a_program(tests: str, passed: bool) -> None:
    assert passes(PROGRAM, tests, sandbox="limits") is passed


@pytest.mark.parametrize(
    ("tests", "names", "modules"),
    [
        ("assert f(1) == g", {"f", "g"}, set()),
        ("x = f(1)\nassert x", {"f"}, set()),
        ("import math\nfrom a import b as c\nassert math.pi and c", set(), set()),
        ("assert math.isclose(f(1), 2)", {"f"}, {"math"}),
        ("assert select([1]) and calendar.x", {"select"}, {"calendar"}),
        ("def check(candidate):\n    x = [y for y in candidate(z)]\ncheck(f)", {"f", "z"}, set()),
        ("class A:\n    b = 1\n    def m(self): return b\nA()", {"b"}, set()),
        ("for i in range(3): assert f(i)", {"f"}, set()),
        ("try: f()\nexcept E as e: print(e)", {"f", "E"}, set()),
        ("assert sorted(f([2, 1]))", {"f"}, set()),
        ("assert sum(1, 2) == 3", {"sum"}, set()),
        ("assert len([]) == 0", {"len"}, set()),
        ("1 + 1", set(), set()),
    ],
)
def test_the_names_that_tests_take_from_a_program(
    tests: str, names: set[str], modules: set[str]
) -> None:
    found = names_taken(tests)
    assert (set(found[0]), set(found[1])) == (names, modules)


def test_tests_that_hand_over_what_cannot_go_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tests = "class Mine: pass\nassert double(Mine())"
    with caplog.at_level(logging.WARNING, "lorapar.sandbox"):
        assert passes(PROGRAM, tests, sandbox="limits") is False
    assert "no program can pass these tests: they hand over a Mine" in caplog.text


def test_arguments_and_results_are_bounded() -> None:
    short = Limits(message=1000)
    program = "def f(n):\n    return 'x' * n"
    assert passes(program, "assert len(f(900)) == 900", sandbox="limits", limits=short) is True
    assert passes(program, "f(1100)", sandbox="limits", limits=short) is False
    assert passes("def f(x): pass", "f('x' * 1100)", sandbox="limits", limits=short) is False


PROMPT = 'def shift(x):\n    return x + 5\n\ndef back(x):\n    """Undo shift."""\n'
CHECK = (
    "def check(candidate):\n    assert all(candidate(shift(x)) == x == back(x + 5) for x in (1, 2))"
)


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        (PROMPT + "    return x - 5", True),
        (PROMPT + "    return x - 4", False),
        ("def back(x):\n    return x - 5", True),
        ("def back(x):\n    return x - 4\ndef shift(x):\n    return x + 4", False),  # not this one
        ("def other(x):\n    return x - 5", False),
        ("back = 3", False),
        ("class back(int):\n    def __eq__(self, other): return True", False),
        ("def back(x", False),
        ("", False),
    ],
)
def test_helpers_are_the_tests_own(program: str, passed: bool) -> None:
    found = check_outcome(
        program, tests=CHECK, entry_point="back", helpers=PROMPT, sandbox="limits"
    )
    assert (found == "passed") is passed


def test_checks_side_by_side_keep_their_order() -> None:
    right = [n % 3 == 0 for n in range(8)]
    programs = [f"def back(x): return x - {5 if passed else 4}" for passed in right]
    jobs = [CodeCheck(program, CHECK, "back", PROMPT) for program in programs]
    assert check_all(jobs, sandbox="limits", workers=3) == right
    assert check_all([], sandbox="limits", workers=3) == []
