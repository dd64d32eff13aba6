"""Two runs are compared problem by problem, and only where that means something."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.comparison import Comparison, compare
from lorapar_core.errors import DataError


def table(ids: str, **right: str) -> dict[str, list[Any]]:
    """`strict="10"`: the first problem is right, the second wrong."""
    columns = {f"{name}_correct": [c == "1" for c in text] for name, text in right.items()}
    return {"example_id": list(ids), **columns}


def test_counts_go_by_problem_and_not_by_row() -> None:
    first = table("abcdef", strict="110100", flexible="111111")
    second = table("fedcba", strict="011001", flexible="000000")
    strict, flexible = compare(first, second)
    # By problem the second is a 1, b 0, c 0, d 1, e 1, f 0.
    assert strict == Comparison("strict", 6, both=2, only_first=1, only_second=1, neither=2)
    assert flexible == Comparison("flexible", 6, both=0, only_first=6, only_second=0, neither=0)
    told = flexible.to_json()
    assert told["p"] == pytest.approx(2 / 2**6)
    assert told["difference"] == -1
    assert told["first"]["accuracy"] == 1
    assert told["second"]["accuracy"] == 0
    assert told["difference_interval_95"][1] < 0


def test_only_ways_to_read_that_both_have_are_compared() -> None:
    first = table("ab", strict="10", harness_strict="10")
    (found,) = compare(first, table("ab", strict="11", choice="00"))
    assert found == Comparison("strict", 2, both=1, only_first=0, only_second=1, neither=0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_a_comparison_turned_round(pairs: list[tuple[bool, bool]], draw: Random) -> None:
    ids = [str(k) for k in range(len(pairs))]
    shuffled = [*enumerate(pairs)]
    draw.shuffle(shuffled)
    first = {"example_id": ids, "choice_correct": [one for one, _ in pairs]}
    second = {
        "example_id": [ids[k] for k, _ in shuffled],
        "choice_correct": [pair[1] for _, pair in shuffled],
    }
    (there,), (back,) = compare(first, second), compare(second, first)
    assert (there.both, there.neither) == (back.both, back.neither)
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)
    assert there.both + there.only_first == sum(one for one, _ in pairs)
    assert there.both + there.only_second == sum(other for _, other in pairs)
    assert (
        there.n == len(pairs) == there.both + there.neither + there.only_first + there.only_second
    )
    assert there.p == back.p
    assert there.difference[0] == -back.difference[0]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (table("abd", strict="111"), "answer 3 and 3 problems, 2 of them the same"),
        (table("ab", strict="11"), "answer 3 and 2 problems, 2 of them the same"),
        (table("abcc", strict="1111"), "4 answers to 3 problems: programs drawn for pass@k"),
        (table("abc", choice="111"), "were read in different ways"),
    ],
)
def test_what_is_not_paired_is_refused(second: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compare(table("abc", strict="110"), second)
