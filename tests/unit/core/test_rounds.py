"""Whom a round of voting asks about which examples."""

from __future__ import annotations

import hashlib
from itertools import permutations

import pytest

from lorapar_core.rounds import AUDITED, for_the_judge, is_audited, next_round, on_example, order
from lorapar_core.rule import Rule, Vote

IDS = [hashlib.sha256(str(k).encode()).hexdigest()[:32] for k in range(2000)]
AUDIT = next(i for i in IDS if is_audited(i))
USUAL = next(i for i in IDS if not is_audited(i))
FIVE = ("a", "b", "c", "d", "e")


def unasked(*names: str) -> dict[str, dict[str, Vote]]:
    return {name: {} for name in names}


def test_each_example_has_an_order_of_its_own_that_no_list_decides() -> None:
    for given in permutations(FIVE[:4]):
        assert order(USUAL, given) == order(USUAL, FIVE[:4])
    first = [order(i, FIVE)[0] for i in IDS]
    for name in FIVE:  # each is asked first as often, within five standard deviations
        assert abs(first.count(name) - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_an_order_is_always_the_same() -> None:
    """In every process and version: it decides whom a paid round asks."""
    assert order("example", FIVE) == ["e", "a", "c", "d", "b"]


def test_another_teacher_leaves_the_order_of_the_others() -> None:
    for example_id in IDS[:50]:
        longer = order(example_id, [*FIVE, "f"])
        assert [name for name in longer if name != "f"] == order(example_id, FIVE)


def test_a_tenth_of_the_examples_is_audited_whoever_votes() -> None:
    count = sum(map(is_audited, IDS))
    assert abs(count - 2000 / AUDITED) < 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert [is_audited(i) for i in IDS] == [is_audited(i) for i in IDS]


def test_the_first_round_asks_as_many_as_could_decide_and_all_about_an_audited_example() -> None:
    asks = next_round([AUDIT, USUAL], unasked(*FIVE), Rule())
    asked = {i: [name for name in FIVE if i in asks.get(name, [])] for i in (AUDIT, USUAL)}
    assert asked[AUDIT] == list(FIVE)
    assert sorted(asked[USUAL]) == sorted(order(USUAL, FIVE)[:3])


def test_the_next_round_asks_the_next_in_turn_while_votes_differ() -> None:
    turns = order(USUAL, FIVE)
    votes = unasked(*FIVE)
    for name, vote in zip(turns, (1, 2, 1), strict=False):
        votes[name][USUAL] = vote
    assert next_round([USUAL], votes, Rule()) == {turns[3]: [USUAL]}
    votes[turns[3]][USUAL] = 2
    assert next_round([USUAL], votes, Rule()) == {turns[4]: [USUAL]}
    votes[turns[4]][USUAL] = None
    assert next_round([USUAL], votes, Rule()) == {}


def test_what_is_certain_is_asked_of_nobody_but_an_audited_example_of_the_rest() -> None:
    votes = unasked("a", "b", "c")
    for example_id in (AUDIT, USUAL):
        for name in order(example_id, votes)[:2]:
            votes[name][example_id] = 2
    assert next_round([AUDIT, USUAL], votes, Rule()) == {order(AUDIT, votes)[2]: [AUDIT]}


def test_full_voting_is_one_round_of_all_in_the_order_of_the_examples() -> None:
    ids = IDS[:20]
    asks = next_round(ids, unasked("b", "a"), Rule(), curtailed=False)
    assert asks == {"b": ids, "a": ids}
    votes = {"b": dict.fromkeys(ids, 1), "a": {}}
    assert next_round(ids, votes, Rule(), curtailed=False) == {"a": ids}


def test_a_teacher_is_asked_in_the_order_of_the_examples() -> None:
    place = {example_id: k for k, example_id in enumerate(IDS)}
    for asked in next_round(IDS, unasked(*FIVE), Rule()).values():
        assert asked == sorted(asked, key=place.__getitem__)


def test_the_judge_is_asked_about_ties_it_has_not_voted_on() -> None:
    votes = {"a": {"x": 1, "y": 1, "z": 1}, "b": {"x": 2, "y": 1, "z": 2}}
    rule = Rule("escalate")
    assert for_the_judge("xyz", votes, rule, judged={}) == ["x", "z"]
    assert for_the_judge("xyz", votes, rule, judged={"x": None}) == ["z"]
    assert for_the_judge("xyz", votes, Rule("system2"), judged={}) == []


@pytest.mark.parametrize(("example_id", "votes"), [("x", [1, None]), ("y", [2]), ("z", [])])
def test_an_abstention_is_a_vote_and_who_was_not_asked_gives_none(
    example_id: str, votes: list[Vote]
) -> None:
    given: dict[str, dict[str, Vote]] = {"a": {"x": 1}, "b": {"x": None, "y": 2}}
    assert on_example(given, example_id) == votes
