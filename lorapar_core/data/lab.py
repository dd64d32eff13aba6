"""The lab's task: sums told in a language of some hundred words, made for a model of its own.

A problem with one step is System 1's, one with two or three is System 2's. A number never leaves
1 to `LARGEST`: each is a token of the lab's model. Answers are worked a line a step and end in
"#### N". That model has seen the words and the sums when it was trained (`deployments/lab`), but
no question, no answer in this form, and of each operation's verbs only the `known` ones at work.

As with `arithmetic`, the same arguments give the same problems everywhere, the problems for a count
are the first of those for any higher count, and every problem belongs to one split: its digest says
to which, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Literal, TypeVar

from lorapar_core.data.arithmetic import DEFAULT_COUNT, Problem

LARGEST = 60
STEPS = (2, 3)
"""Of a System-2 problem, equally often."""
PEOPLE = ("ann", "ben", "eva", "ida", "leo", "max", "mia", "tom")
THINGS = (
    "apples", "books", "cards", "coins", "eggs", "nuts", "pens", "pins", "shells", "stamps"
)  # fmt: skip
_TEST_SHARE = 4
"""One problem in so many is for testing."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Verb:
    """What somebody does with the things. `amount` 0: the sentence tells a number of its own."""

    word: str
    sign: Literal["+", "-", "*", "/"]
    amount: int = 0

    def sentence(self, person: str, amount: int) -> str:
        return f"{person} {self.word} {'them' if self.amount else amount}."


KNOWN = (
    *(Verb(word, "+") for word in ("finds", "gets", "wins")),
    *(Verb(word, "-") for word in ("drops", "loses", "sells")),
    Verb("doubles", "*", 2),
    Verb("halves", "/", 2),
)
"""Verbs that the model has seen at work."""
NEW = (
    *(Verb(word, "+") for word in ("buys", "makes", "picks")),
    *(Verb(word, "-") for word in ("burns", "eats", "lends")),
    Verb("copies", "*", 2),
    Verb("shares", "/", 2),
)
"""Verbs that it has seen only where nothing is counted."""


@dataclass(frozen=True, slots=True)
class Step:
    """before sign amount = after; `verb` is how a story tells it."""

    before: int
    verb: Verb
    amount: int
    after: int

    @property
    def sum(self) -> str:
        return f"{self.before} {self.verb.sign} {self.amount} = {self.after}"


def problems(
    *, split: Literal["train", "test"], count: int, single_step_share: float, seed: int
) -> list[Problem]:
    """`count` different problems (0: 2,000 for train, 500 for test).

    `single_step_share` of them take one step, rounded down, spread evenly over the list.
    """
    share = Fraction(str(single_step_share))
    streams = {kind: _stream(split, kind, seed) for kind in ("single", "multi")}
    made: list[Problem] = []
    for n in range(count or DEFAULT_COUNT[split]):
        single = floor((n + 1) * share) > floor(n * share)
        made.append(next(streams["single" if single else "multi"]))
    return made


def _stream(split: str, kind: str, seed: int) -> Iterator[Problem]:
    rng = random.Random(f"lab:{seed}:{split}:{kind}")
    seen: set[str] = set()
    while True:
        problem = _written(1 if kind == "single" else pick(STEPS, rng), rng)
        if problem.prompt not in seen and split_of(problem.prompt) == split:
            seen.add(problem.prompt)
            yield problem


def split_of(prompt: str) -> Literal["train", "test"]:
    """The split that a problem belongs to, under every seed."""
    first = hashlib.sha256(prompt.encode()).digest()[0]
    return "train" if first % _TEST_SHARE else "test"


def _written(count: int, rng: random.Random) -> Problem:
    steps = drawn_steps(count, rng, (*KNOWN, *NEW))
    things = pick(THINGS, rng)
    prompt = f"{story(steps, pick(PEOPLE, rng), things)} how many {things} now?"
    lines = [step.sum for step in steps]
    answer = "\n".join([*lines, f"#### {steps[-1].after}"])
    return Problem(prompt=prompt, answer=answer, steps=count)


def story(steps: Sequence[Step], person: str, things: str) -> str:
    """ "tom has 3 pens. tom finds 4. tom doubles them." """
    told = [step.verb.sentence(person, step.amount) for step in steps]
    return " ".join([f"{person} has {steps[0].before} {things}.", *told])


def drawn_steps(count: int, rng: random.Random, verbs: Sequence[Verb]) -> list[Step]:
    """So many steps, each from where the last ended, with all numbers from 1 to `LARGEST`."""
    while True:
        steps: list[Step] = []
        number = 1 + int(rng.random() * LARGEST)
        while len(steps) < count:
            step = _drawn(number, pick(verbs, rng), rng)
            if step is None:
                break
            steps.append(step)
            number = step.after
        else:
            return steps


def _drawn(number: int, verb: Verb, rng: random.Random) -> Step | None:
    """A step from `number`, or None where the verb has none that stays in bounds."""
    if verb.sign == "*" and number * verb.amount <= LARGEST:
        return Step(number, verb, verb.amount, number * verb.amount)
    if verb.sign == "/" and number % verb.amount == 0:
        return Step(number, verb, verb.amount, number // verb.amount)
    room = {"+": LARGEST - number, "-": number - 1}.get(verb.sign, 0)
    if room < 1:
        return None
    amount = 1 + int(rng.random() * room)
    return Step(number, verb, amount, number + amount if verb.sign == "+" else number - amount)


def pick(values: Sequence[_T], rng: random.Random) -> _T:
    """One of them, by `random()` alone, whose sequence Python guarantees."""
    return values[int(rng.random() * len(values))]
