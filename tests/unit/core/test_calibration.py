"""From a teacher's rows to its votes: what is taken off its log-odds, and what isn't."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.teachers.ballot import CONTENT_FREE_ID
from lorapar_core.teachers.calibration import COLUMNS, calibrated, labels_of

IDS = st.text("abcdef", min_size=1, max_size=8)
ODDS = st.integers(-4000, 4000).map(lambda n: n / 64)
LOG_ODDS = st.dictionaries(IDS, ODDS, min_size=1, max_size=20)
Row = tuple[str, int | None, float | None, float | None]


def table(*rows: Row) -> dict[str, list[Any]]:
    return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def scored(log_odds: Mapping[str, float]) -> dict[str, list[Any]]:
    return table(*((e, 2 if odds > 0 else 1, -9.0, -9.0 + odds) for e, odds in log_odds.items()))


@given(LOG_ODDS)
def test_batch_calibration_leaves_both_labels_occupied(log_odds: dict[str, float]) -> None:
    labels, offset = calibrated(log_odds, "batch")
    assert labels.keys() == log_odds.keys()
    assert math.isclose(offset, sum(log_odds.values()) / len(log_odds), abs_tol=1e-9)
    if len(set(log_odds.values())) > 1:
        assert set(labels.values()) == {1, 2}
        assert labels[max(log_odds, key=lambda e: log_odds[e])] == 2
        assert labels[min(log_odds, key=lambda e: log_odds[e])] == 1


@given(LOG_ODDS, ODDS)
def test_content_free_calibration_takes_the_empty_example_s_log_odds_off(
    log_odds: dict[str, float], empty: float
) -> None:
    labels, offset = calibrated({**log_odds, CONTENT_FREE_ID: empty}, "content_free")
    assert offset == empty
    assert labels == {e: 2 if odds > empty else 1 for e, odds in log_odds.items()}


def test_no_calibration_and_the_content_free_example_has_no_say() -> None:
    log_odds = {"a": -0.5, "b": 0.25, "c": 0.0, CONTENT_FREE_ID: 100.0}
    assert calibrated(log_odds, "none") == ({"a": 1, "b": 2, "c": 1}, 0.0)
    assert calibrated(log_odds, "batch") == ({"a": 1, "b": 2, "c": 2}, -0.25 / 3)


def test_votes_come_from_all_rounds_and_the_offset_from_all_their_log_odds() -> None:
    rounds = [scored({"a": 1.0, "b": 2.0, CONTENT_FREE_ID: 1.5}), scored({"c": 6.0})]
    assert labels_of(rounds, "batch") == ({"a": 1, "b": 1, "c": 2}, 3.0)
    assert labels_of(rounds, "content_free") == ({"a": 1, "b": 2, "c": 2}, 1.5)
    assert labels_of(rounds, "none") == ({"a": 2, "b": 2, "c": 2}, 0.0)


def test_votes_without_log_probabilities_stand_and_abstentions_stay_none() -> None:
    rows = table(("a", 1, None, None), ("b", None, None, None), ("c", 2, None, None))
    assert labels_of([rows], "none") == ({"a": 1, "b": None, "c": 2}, 0.0)


def test_an_abstention_among_log_odds_stays_one() -> None:
    rounds = [scored({"a": 1.0, "b": 3.0}), table(("c", None, None, None))]
    assert labels_of(rounds, "batch") == ({"a": 1, "b": 2, "c": None}, 2.0)


def test_without_calibration_a_label_is_what_the_row_says() -> None:
    """A replayed file's label counts, whatever log-probabilities stand beside it."""
    rows = table(("a", 1, -3.0, -0.1), ("b", None, -0.1, -3.0))
    assert labels_of([rows], "none") == ({"a": 1, "b": None}, 0.0)


@pytest.mark.parametrize("calibration", ["none", "content_free", "batch"])
def test_who_was_asked_nothing_has_no_votes_and_no_offset(calibration: str) -> None:
    assert labels_of([], calibration) == ({}, 0.0)
