"""Curtailed voting gives the labels of full voting, and asks for less."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.rounds import for_the_judge, is_audited, next_round, on_example
from lorapar_core.rule import Rule, Vote, decide, is_certain

RULES = st.builds(
    Rule,
    tie=st.sampled_from(["system1", "system2", "drop", "escalate"]),
    quorum=st.integers(1, 7),
    abstentions=st.sampled_from(["ignore", "drop"]),
)
VOTES = st.sampled_from([1, 2, None])
Given = dict[str, dict[str, Vote]]


def example_id(seed: int) -> str:
    return hashlib.sha256(str(seed).encode()).hexdigest()[:32]


@st.composite
def complete_votes(draw: st.DrawFn) -> Given:
    """Everybody's vote on a few examples, audited ones among them now and then."""
    teachers = [f"t{k}" for k in range(draw(st.integers(1, 7)))]
    ids = draw(st.lists(st.integers(0, 400).map(example_id), min_size=1, max_size=8, unique=True))
    return {
        name: dict(
            zip(ids, draw(st.lists(VOTES, min_size=len(ids), max_size=len(ids))), strict=True)
        )
        for name in teachers
    }


def in_rounds(full: Mapping[str, Mapping[str, Vote]], rule: Rule) -> tuple[Given, int]:
    """The votes that curtailed voting comes to, and its rounds."""
    ids = list(next(iter(full.values())))
    votes: Given = {name: {} for name in full}
    rounds = 0
    while asks := next_round(ids, votes, rule):
        rounds += 1
        for name, asked in asks.items():
            assert asked, "nobody is asked about nothing"
            assert len(set(asked)) == len(asked)
            for i in asked:
                assert i not in votes[name], "nobody is asked twice"
        undecided = {i for asked in asks.values() for i in asked}
        for i in undecided:
            known = on_example(votes, i)
            assert is_audited(i) or not is_certain(known, len(full) - len(known), rule)
        for name, asked in asks.items():
            votes[name].update({i: full[name][i] for i in asked})
    return votes, rounds


@given(complete_votes(), RULES)
def test_rounds_end_with_the_labels_of_full_voting(full: Given, rule: Rule) -> None:
    votes, rounds = in_rounds(full, rule)
    assert rounds <= len(full)
    ids = list(full["t0"])
    for i in ids:
        whole = decide(on_example(full, i), rule)
        ours = decide(on_example(votes, i), rule)
        assert (ours.system, ours.for_the_judge) == (whole.system, whole.for_the_judge)
        if is_audited(i):
            assert ours == whole
            assert all(i in given for given in votes.values())
    ties = for_the_judge(ids, full, rule, judged={})
    assert for_the_judge(ids, votes, rule, judged={}) == ties


@given(complete_votes(), RULES, st.randoms(use_true_random=False))
def test_neither_the_order_of_teachers_nor_that_of_examples_decides_whom_a_round_asks(
    full: Given, rule: Rule, source: random.Random
) -> None:
    names = list(full)
    source.shuffle(names)
    other = {name: dict(source.sample(list(full[name].items()), len(full[name]))) for name in names}
    assert in_rounds(other, rule) == in_rounds(full, rule)


@given(complete_votes(), RULES)
def test_full_voting_is_a_single_round(full: Given, rule: Rule) -> None:
    ids = list(full["t0"])
    unasked: Given = {name: {} for name in full}
    assert next_round(ids, unasked, rule, curtailed=False) == dict.fromkeys(full, ids)
    assert next_round(ids, full, rule, curtailed=False) == {}
    assert next_round(ids, full, rule) == {}


def independent(count: int, teachers: int, *, right: float) -> Given:
    """Votes of teachers that are right on their own, each so often."""
    source = random.Random(count)
    ids = [example_id(k) for k in range(count)]
    truth = {i: source.choice((1, 2)) for i in ids}
    return {
        f"t{k}": {i: truth[i] if source.random() < right else 3 - truth[i] for i in ids}
        for k in range(teachers)
    }


def saving(full: Given) -> float:
    votes, _ = in_rounds(full, Rule())
    cast: Sequence[int] = [len(given) for given in votes.values()]
    return 1 - sum(cast) / sum(map(len, full.values()))


@pytest.mark.parametrize(("teachers", "least", "most"), [(3, 0.20, 0.32), (5, 0.25, 0.40)])
def test_a_third_of_five_votes_is_saved_where_two_teachers_agree_nine_times_in_ten(
    teachers: int, least: float, most: float
) -> None:
    right = (1 + 0.8**0.5) / 2  # right² + wrong² = 0.9
    found = saving(independent(2000, teachers, right=right))
    print(f"{teachers} teachers that agree on 0.9: {100 * found:.1f} % of the votes are saved")
    assert least < found < most
