"""The rule that makes a label of votes, and when votes that are still out can't change it."""

from __future__ import annotations

from itertools import product

import pytest

from lorapar_core.rule import Label, Rule, Vote, decide, is_certain, needed

TIES = ("system1", "system2", "drop", "escalate")
RULES = [
    Rule(tie, quorum, abstentions)
    for tie, quorum, abstentions in product(TIES, (1, 2, 3), ("ignore", "drop"))
]


@pytest.mark.parametrize(
    ("votes", "system", "counts"),
    [
        ([1, 1, 2], 1, (2, 1, 0)),
        ([1, 2, 2], 2, (2, 1, 0)),
        ([2, 2, 2], 2, (3, 0, 0)),
        ([1, None, None], 1, (1, 0, 2)),
        ([None, None], None, (0, 0, 2)),
        ([], None, (0, 0, 0)),
    ],
)
def test_the_label_is_the_majority_s(
    votes: list[Vote], system: int | None, counts: tuple[int, int, int]
) -> None:
    label = decide(votes, Rule())
    assert label == Label(system, *counts)
    assert label.agreement == (counts[0] / (counts[0] + counts[1]) if counts[0] else 0.0)


@pytest.mark.parametrize(("tie", "system"), [("system1", 1), ("system2", 2), ("drop", None)])
def test_a_tie_goes_by_the_rule_and_agrees_by_half(tie: str, system: int | None) -> None:
    assert decide([1, 2, None], Rule(tie)) == Label(system, 1, 1, 1)
    assert decide([1, 2], Rule(tie)).agreement == 0.5
    assert decide([1, 2], Rule(tie), judge=1).system == system, "there is nothing to judge"


@pytest.mark.parametrize("judge", [1, 2, None])
def test_a_tie_may_be_the_judge_s_whose_abstention_drops_it(judge: Vote) -> None:
    rule = Rule("escalate")
    assert decide([1, 2], rule, judge=judge) == Label(judge, 1, 1, 0, for_the_judge=True)
    assert decide([2, 2, 1], rule, judge=1) == Label(2, 2, 1, 0), "no tie, no judge"
    assert decide([None, None], rule, judge=1).system is None, "no votes are no tie"


@pytest.mark.parametrize(("quorum", "system"), [(1, 2), (2, 2), (3, None)])
def test_the_quorum_counts_votes_without_abstentions(quorum: int, system: int | None) -> None:
    assert decide([2, 2, None, None], Rule(quorum=quorum)).system == system


@pytest.mark.parametrize("tie", TIES)
def test_a_tie_below_the_quorum_is_dropped_and_not_judged(tie: str) -> None:
    label = decide([1, 2, None], Rule(tie, quorum=3), judge=1)
    assert (label.system, label.for_the_judge) == (None, False)


def test_an_abstention_is_passed_over_or_drops_the_example() -> None:
    assert decide([1, 1, None], Rule(abstentions="ignore")) == Label(1, 2, 0, 1)
    assert decide([1, 1, None], Rule(abstentions="drop")) == Label(None, 2, 0, 1)
    assert decide([1, 1, 2], Rule(abstentions="drop")) == Label(1, 2, 1, 0)
    tied = decide([1, 2, None], Rule("escalate", abstentions="drop"), judge=1)
    assert (tied.system, tied.for_the_judge) == (None, False)


def ends(votes: list[Vote], out: int, rule: Rule) -> set[tuple[int | None, bool]]:
    """What every way in which the other votes may come leads to, one by one."""
    labels = [decide([*votes, *rest], rule) for rest in product((1, 2, None), repeat=out)]
    return {(label.system, label.for_the_judge) for label in labels}


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_certain_is_what_no_vote_that_is_out_can_change(rule: Rule) -> None:
    certain = 0
    for cast in range(6):
        for known in product((1, 2, None), repeat=cast):
            for out in range(6 - cast):
                expected = len(ends(list(known), out, rule)) == 1
                assert is_certain(known, out, rule) is expected, (known, out)
                certain += expected and out > 0
    # Where an abstention drops the example, no number of votes makes it certain but an abstention.
    assert certain > 0


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_fewer_votes_than_needed_make_no_label_certain(rule: Rule) -> None:
    """Of two systems; an abstention may, which is nothing to hope for."""
    for cast in range(5):
        for known in product((1, 2, None), repeat=cast):
            for out in range(6 - cast):
                least = needed(known, out, rule)
                assert 0 <= least <= out
                assert (least == 0) is (out == 0 or is_certain(known, out, rule))
                for more in range(least):
                    for given in product((1, 2), repeat=more):
                        assert not is_certain([*known, *given], out - more, rule)


@pytest.mark.parametrize(
    ("votes", "out", "rule", "more"),
    [
        ([], 5, Rule(), 3),
        ([1, 1], 3, Rule(), 1),
        ([1, 1, 2], 2, Rule(), 1),
        ([1, 1, 1], 2, Rule(), 0),
        ([2, 2], 2, Rule("system2"), 0),
        ([1, 1], 2, Rule("system2"), 1),
        ([2, 2], 2, Rule("system1"), 1),
        ([], 5, Rule(quorum=4), 4),
        ([], 5, Rule(abstentions="drop"), 5),
        ([None], 4, Rule(abstentions="drop"), 0),
        ([None, None], 1, Rule(quorum=2), 0),
        ([], 1, Rule(), 1),
        ([], 0, Rule(), 0),
    ],
)
def test_how_many_votes_are_needed(votes: list[Vote], out: int, rule: Rule, more: int) -> None:
    assert needed(votes, out, rule) == more
