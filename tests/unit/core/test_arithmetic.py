"""The problems we write: right, all different, the same everywhere, and good English."""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

from lorapar_core.data.arithmetic import Problem, plural, problems
from lorapar_core.data.wordings import BOYS, GIRLS, NOUNS, WORDINGS, Wording
from lorapar_core.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[3]
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = \$?(\d+)")


def made(
    split: str = "train", count: int = 400, share: float = 0.5, seed: int = 0
) -> list[Problem]:
    return problems(split=split, count=count, single_step_share=share, seed=seed)  # type: ignore[arg-type]


BOTH = [*made("train", 2000), *made("test", 1000)]


def test_enough_wordings_of_each_kind() -> None:
    assert len(WORDINGS["train", "single"]) >= 24
    assert len(WORDINGS["train", "multi"]) >= 24
    assert len(WORDINGS["test", "single"]) >= 10
    assert len(WORDINGS["test", "multi"]) >= 10
    texts = [wording.text for wordings in WORDINGS.values() for wording in wordings]
    assert len(set(texts)) == len(texts)
    assert {len(w.steps) for w in WORDINGS["train", "multi"]} == {2, 3, 4}
    assert all(len(w.steps) == 1 for split in ("train", "test") for w in WORDINGS[split, "single"])


def test_every_step_is_right_and_leads_to_the_answer() -> None:
    for problem in BOTH:
        *lines, last = problem.answer.split("\n")
        assert len(lines) == problem.steps
        results = []
        for line in lines:
            (step,) = STEP.findall(line)
            a, sign, b, result = int(step[0]), step[1], int(step[2]), int(step[3])
            expected = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]
            assert result == expected, problem
            assert result > 0
            results.append(result)
        assert last == f"#### {results[-1]}"


def test_every_number_of_a_step_is_told_or_worked_out() -> None:
    words = {"twice": 2, "half": 2, "Half": 2, "three": 3, "Four": 4, "They share": 2}
    for problem in BOTH:
        known = {int(n) for n in re.findall(r"\d+", problem.prompt)}
        known |= {value for word, value in words.items() if word in problem.prompt}
        for a, _, b, result in STEP.findall(problem.answer):
            assert {int(a), int(b)} <= known, problem
            known.add(int(result))


def test_no_problem_stands_twice() -> None:
    prompts = [problem.prompt for problem in BOTH]
    assert len(set(prompts)) == len(prompts)


def test_the_default_counts_and_the_share_of_single_steps() -> None:
    assert (len(made(count=0)), len(made("test", count=0))) == (2000, 500)
    for share, single in ((0.0, 0), (0.1, 40), (0.5, 200), (0.29, 116), (1.0, 400)):
        assert sum(problem.steps == 1 for problem in made(share=share)) == single


def test_fewer_problems_are_the_first_of_more() -> None:
    assert made(count=50) == made(count=400)[:50]


def test_the_seed_decides() -> None:
    assert made() == made()
    shared = {problem.prompt for problem in made()} & {problem.prompt for problem in made(seed=1)}
    assert len(shared) < 10


def test_hash_seeds_decide_nothing() -> None:
    code = (
        "import json, dataclasses as d\n"
        "from lorapar_core.data.arithmetic import problems\n"
        "p = problems(split='train', count=400, single_step_share=.5, seed=0)\n"
        "print(json.dumps([d.asdict(x) for x in p]))"
    )
    here = [{"prompt": p.prompt, "answer": p.answer, "steps": p.steps} for p in made()]
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(out.stdout) == here


def test_the_problems_are_those_of_this_version() -> None:
    """Fails when problems change: every artifact made from them does too. Then mend the digest."""
    text = "\n".join(f"{p.prompt}\n{p.answer}" for p in [*made(), *made("test")])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "00fbd70f3100b65b"


def test_problems_are_short() -> None:
    assert max(len(problem.prompt.split()) for problem in BOTH) < 60
    assert all(problem.prompt.count("?") == 1 and problem.prompt.endswith("?") for problem in BOTH)


def test_singular_and_plural() -> None:
    everything = " ".join(f"{p.prompt} {p.answer}" for p in [*BOTH, *made("train", 8000)])
    nouns = {noun for kind in NOUNS.values() for noun in kind}
    nouns |= {
        noun
        for wordings in WORDINGS.values()
        for wording in wordings
        for _, _, noun, _ in string.Formatter().parse(
            " ".join([wording.text, *(line for _, _, line in wording.steps)])
        )
        if noun and noun.islower()
    }
    assert {"child", "page", "apple"} <= nouns
    # "1 trading card", "2 trading cards": at most two words after a number.
    counted = set(re.findall(r"(?<![\d$])(\d+) (?=(\w+))(?=(\w+(?: \w+)?))", everything))
    for number, *words in counted:
        wrong = nouns if number != "1" else set(map(plural, nouns))
        assert not wrong & set(words), (number, words)
    assert not re.search(r"[{}]|  | [.,?]|\b[Aa] [aeiou]\w+ |\bone \w+s\b", everything)
    assert " 1 " in everything


@pytest.mark.parametrize(
    ("noun", "more"),
    [
        *(("apple", "apples"), ("box", "boxes"), ("peach", "peaches"), ("daisy", "daisies")),
        *(("child", "children"), ("loaf", "loaves"), ("foot", "feet"), ("person", "people")),
        *(("toy", "toys"), ("bus", "buses"), ("inch", "inches"), ("iris", "irises")),
    ],
)
def test_plurals(noun: str, more: str) -> None:
    assert plural(noun) == more


def test_people_are_different_and_pronouns_fit() -> None:
    assert not set(GIRLS) & set(BOYS)
    for problem in made("train", 2000):
        named = re.findall(rf"\b(?:{'|'.join([*GIRLS, *BOYS])})\b", problem.prompt)
        pronouns = set(re.findall(r"\b(he|she|him|her|his)\b", problem.prompt, re.IGNORECASE))
        if pronouns:
            expected = {"she", "her", "She"} if named[0] in GIRLS else {"he", "him", "his", "He"}
            assert pronouns <= expected, problem


def test_too_many_problems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Wording("How much are {a} and 1?", {"a": (1, 3)}, (("x", "a + 1", "{x}"),))
    monkeypatch.setitem(WORDINGS, ("train", "single"), (only,))
    assert len(made(count=3, share=1)) == 3
    with pytest.raises(DataError, match="no more than 3 different single-step train problems"):
        made(count=4, share=1)
