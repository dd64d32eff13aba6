"""Word problems made here: no download, known to take one step or several, always the same.

A problem with one step is what System 1 should answer at once, one with two to four is System 2's.
Answers are worked as GSM8K's are, a line a step, and end in "#### N". Every number on the way is a
positive whole number.

The same arguments give the same problems on every machine and Python version: choices come from
`random.Random.random()` alone, whose sequence Python guarantees. The problems for a count are the
first of those for any higher count. The two splits share no wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal, TypeVar

from lorapar_core.data.wordings import BOYS, GIRLS, NOUNS, WORDINGS, Draw, Wording
from lorapar_core.errors import DataError

DEFAULT_COUNT = {"train": 2000, "test": 500}

_IRREGULAR = {"child": "children", "foot": "feet", "loaf": "loaves", "person": "people"}
_SHE = {"he": "she", "He": "She", "him": "her", "his": "her"}
_TRIES = 10_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Problem:
    """A word problem with its worked answer."""

    prompt: str
    answer: str
    steps: int


def problems(
    *, split: Literal["train", "test"], count: int, single_step_share: float, seed: int
) -> list[Problem]:
    """`count` different problems (0: 2,000 for train, 500 for test).

    `single_step_share` of them take one step, rounded down, spread evenly over the list.

    Raises:
        DataError: the wordings don't have that many different problems.
    """
    share = Fraction(str(single_step_share))
    streams = {kind: _stream(split, kind, seed) for kind in ("single", "multi")}
    made: list[Problem] = []
    for n in range(count or DEFAULT_COUNT[split]):
        single = floor((n + 1) * share) > floor(n * share)
        made.append(next(streams["single" if single else "multi"]))
    return made


def _stream(split: str, kind: str, seed: int) -> Iterator[Problem]:
    """Different problems without end: all wordings in a new order, again and again."""
    rng = random.Random(f"{seed}:{split}:{kind}")
    wordings = WORDINGS[split, kind]
    seen: set[str] = set()
    while True:
        before = len(seen)
        for wording in _shuffled(wordings, rng):
            problem = _new_problem(wording, rng, seen)
            if problem is not None:
                seen.add(problem.prompt)
                yield problem
        if len(seen) == before:
            raise DataError(
                f"arithmetic has no more than {before} different {kind}-step {split} problems; "
                "ask for fewer in data.examples or data.test_examples"
            )


def _new_problem(wording: Wording, rng: random.Random, seen: set[str]) -> Problem | None:
    for _ in range(100):
        problem = _written(wording, rng)
        if problem.prompt not in seen:
            return problem
    return None


def _choice(values: Sequence[_T], rng: random.Random) -> _T:
    return values[int(rng.random() * len(values))]


def _shuffled(values: Sequence[_T], rng: random.Random) -> list[_T]:
    order = sorted((rng.random(), n) for n in range(len(values)))
    return [values[n] for _, n in order]


def _written(wording: Wording, rng: random.Random) -> Problem:
    words = _words(rng)
    numbers = _numbers(wording, rng)
    nouns = {slot: words[slot] for slot in NOUNS}
    shown: dict[str, object] = {
        **words,
        **{name: _Count(value, nouns) for name, value in numbers.items()},
    }
    prompt = wording.text.format_map(shown)
    lines = []
    for result, calculation, line in wording.steps:
        worked = _Count(numbers[result], nouns, worked=_spelled(calculation, numbers))
        lines.append(line.format_map({**shown, result: worked}))
    answer = "\n".join([*lines, f"#### {numbers[wording.steps[-1][0]]}"])
    return Problem(prompt=prompt, answer=answer, steps=len(lines))


def _words(rng: random.Random) -> dict[str, str]:
    """People and things for the gaps of one problem."""
    people = _shuffled([*GIRLS, *BOYS], rng)[:3]
    she = people[0] in GIRLS
    words = dict(zip("ABC", people, strict=True))
    words |= _SHE if she else {word: word for word in _SHE}
    for slot, nouns in NOUNS.items():
        words[slot] = _choice(nouns, rng)
        words[f"{slot}S"] = plural(words[slot])
    return words


def _numbers(wording: Wording, rng: random.Random) -> dict[str, int]:
    """Numbers with which every step comes out a positive whole number."""
    for _ in range(_TRIES):
        numbers = _drawn(wording.draws, rng)
        for result, calculation, _ in wording.steps:
            value = _value(calculation, numbers)
            if value is None:
                break
            numbers[result] = value
        else:
            return numbers
    raise AssertionError(f"no numbers fit {wording.text!r}")


def _drawn(draws: Draw, rng: random.Random) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for name, how in draws.items():
        if isinstance(how, str):
            numbers[name] = _value(how, numbers) or 0
        else:
            low, high = how
            numbers[name] = low + int(rng.random() * (high - low + 1))
    return numbers


def _operands(calculation: str, numbers: Mapping[str, int]) -> tuple[int, str, int]:
    left, sign, right = calculation.split(" ")
    a, b = (int(word) if word.isdigit() else numbers[word] for word in (left, right))
    return a, sign, b


def _value(calculation: str, numbers: Mapping[str, int]) -> int | None:
    """The result, or None where it isn't a positive whole number."""
    a, sign, b = _operands(calculation, numbers)
    if sign == "/":
        return a // b if b and a % b == 0 and a else None
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return value if value > 0 else None


def _spelled(calculation: str, numbers: Mapping[str, int]) -> str:
    a, sign, b = _operands(calculation, numbers)
    return f"{a} {sign} {b} = "


@dataclass(frozen=True, slots=True)
class _Count:
    """A number in a text, with what the gap or the step puts around it.

    "8", "8 apples", "$8", "5 + 3 = 8 apples".
    """

    value: int
    nouns: Mapping[str, str]
    worked: str = ""

    def __format__(self, noun: str) -> str:
        if noun == "$":
            return f"{self.worked}${self.value}"
        if not noun:
            return f"{self.worked}{self.value}"
        word = self.nouns.get(noun, noun)
        return f"{self.worked}{self.value} {word if self.value == 1 else plural(word)}"


def plural(noun: str) -> str:
    """More than one: boxes, daisies, people."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if re.search(r"(s|x|ch|sh)$", noun):
        return f"{noun}es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"
