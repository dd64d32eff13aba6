"""The lab's problems: right, in bounds, never in both splits, the same everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.config import DataConfig
from lorapar_core.data.arithmetic import Problem
from lorapar_core.data.choice import choose, read_source
from lorapar_core.data.lab import KNOWN, LARGEST, NEW, PEOPLE, THINGS, problems
from lorapar_core.data.sources import locate

REPOSITORY = Path(__file__).resolve().parents[3]
SENTENCE = re.compile(r"(\w+) (\w+) (\d+|them)\.")


def made(
    split: str = "train", count: int = 400, share: float = 0.5, seed: int = 0
) -> list[Problem]:
    return problems(split=split, count=count, single_step_share=share, seed=seed)  # type: ignore[arg-type]


BOTH = [*made("train", 2000), *made("test", 1000)]
VERBS = {verb.word: verb for verb in (*KNOWN, *NEW)}


def test_the_working_is_what_the_story_tells() -> None:
    """Read anew from the prompt's words alone."""
    for problem in BOTH:
        opening, asked = re.fullmatch(
            r"(\w+ has \d+ \w+\.) .*(how many \w+ now\?)", problem.prompt
        ).groups()  # type: ignore[union-attr]
        person, number, things = re.fullmatch(r"(\w+) has (\d+) (\w+)\.", opening).groups()  # type: ignore[union-attr]
        assert person in PEOPLE
        assert things in THINGS
        assert asked == f"how many {things} now?"
        value, lines = int(number), []
        for who, word, amount in SENTENCE.findall(problem.prompt.removeprefix(opening)):
            verb = VERBS[word]
            by = verb.amount or int(amount)
            result = {
                "+": value + by, "-": value - by, "*": value * by, "/": value // by
            }[verb.sign]  # fmt: skip
            assert who == person
            assert verb.sign != "/" or value % by == 0
            lines.append(f"{value} {verb.sign} {by} = {result}")
            value = result
        assert problem.answer == "\n".join([*lines, f"#### {value}"])
        assert problem.steps == len(lines)


def test_numbers_stay_in_bounds() -> None:
    for problem in BOTH:
        numbers = map(int, re.findall(r"\d+", f"{problem.prompt} {problem.answer}"))
        assert all(1 <= number <= LARGEST for number in numbers), problem


def test_every_verb_and_step_count_is_there() -> None:
    assert Counter(problem.steps == 1 for problem in BOTH) == {True: 1500, False: 1500}
    counts = Counter(problem.steps for problem in BOTH)
    assert all(650 < counts[steps] < 850 for steps in (2, 3))
    told = Counter(re.findall(r"\w+ (\w+) (?:\d+|them)\.", " ".join(p.prompt for p in BOTH)))
    assert set(told) == set(VERBS)
    assert len(VERBS) == len(KNOWN) + len(NEW)


@given(seed=st.integers(0, 50), other=st.integers(0, 50), share=st.sampled_from([0, 0.3, 1]))
def test_no_problem_is_in_both_splits_whatever_the_seeds(
    seed: int, other: int, share: float
) -> None:
    train = {p.prompt for p in made("train", 60, share, seed)}
    test = {p.prompt for p in made("test", 60, share, other)}
    assert len(train) == len(test) == 60
    assert not train & test


def test_a_recipe_gets_both_splits_and_loses_none(tmp_path: Path) -> None:
    data = DataConfig(source="lab", examples=90, test_examples=40, single_step_share=0.3)
    train, test = (
        read_source(*locate("lab", split=split, data=data, download_dir=tmp_path), data=data)[0]
        for split in ("train", "test")
    )
    chosen = choose(train, test, data=data)
    assert (len(chosen.train), len(chosen.test), chosen.test_overlap) == (90, 40, 0)
    references = [(e.example.answer, e.example.reference) for e in [*chosen.train, *chosen.test]]
    assert all(answer.endswith(f"#### {reference}") for answer, reference in references)


def test_the_default_counts_and_the_share_of_single_steps() -> None:
    assert (len(made(count=0)), len(made("test", count=0))) == (2000, 500)
    for share, single in ((0.0, 0), (0.1, 40), (0.29, 116), (1.0, 400)):
        assert sum(problem.steps == 1 for problem in made(share=share)) == single


def test_fewer_problems_are_the_first_of_more() -> None:
    assert made(count=50) == made(count=400)[:50]


def test_the_seed_decides() -> None:
    assert made() == made()
    shared = {problem.prompt for problem in made()} & {problem.prompt for problem in made(seed=1)}
    assert len(shared) < 20


def test_hash_seeds_decide_nothing() -> None:
    code = (
        "import json, dataclasses as d\n"
        "from lorapar_core.data.lab import problems\n"
        "p = problems(split='train', count=400, single_step_share=.5, seed=0)\n"
        "print(json.dumps([d.asdict(x) for x in p]))"
    )
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(out.stdout) == [asdict(problem) for problem in made()]


def test_the_problems_are_those_of_this_version() -> None:
    """Fails when problems change: every artifact made from them does too. Then mend the digest."""
    text = "\n".join(f"{p.prompt}\n{p.answer}" for p in [*made(), *made("test")])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "20d9e7eb5c109fd8"
