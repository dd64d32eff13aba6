"""Claims: coverage where the difference is known, symmetry, Holm's rule, the smallest tables."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar_core.claims import (
    ERROR_RATE,
    Interval,
    intervals,
    judge,
    p_value,
    spread,
    verdict,
)
from lorapar_core.claims import resampled as resampled_all

QUICK = 999
TABLES = st.tuples(st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**16))
"""Seeds, problems, and what to draw a table of them with."""


def interval(paired: np.ndarray, **more: Any) -> Interval:
    return intervals([paired], **more)[0]


def resampled(paired: np.ndarray, **more: Any) -> np.ndarray:
    return resampled_all([paired], **more)[0]


def table(seeds: int, problems: int, draw: int, *, shift: float = 0.0) -> np.ndarray:
    """Differences of two points' answers: -1, 0, 1."""
    source = np.random.default_rng(draw)
    first = source.random((seeds, problems)) < 0.5 + shift / 2
    second = source.random((seeds, problems)) < 0.5 - shift / 2
    return first.astype(float) - second.astype(float)


# Coverage


Spread = float | tuple[float, float]
"""What seeds move every point by; or the one that all are beside, and the others."""


def experiment(
    source: np.random.Generator, *, claims: int, seeds: int, spread: Spread, gain: float
) -> list[np.ndarray]:
    """A table's claims: points beside one and the same other, better by `gain` / 2.

    A problem's chance to be answered right is 0.5 on average and mostly near 0 or 1; `gain` of the
    way to 1 a point is better. A seed moves each point by N(0, spread).
    """
    chance = source.beta(0.5, 0.5, 120)
    shared, own = spread if isinstance(spread, tuple) else (spread, spread)

    def answers(chances: np.ndarray, by: float) -> np.ndarray:
        moved = np.clip(chances + source.normal(0, by, (seeds, 1)), 0, 1)
        return (source.random((seeds, len(chance))) < moved).astype(float)

    other = answers(chance, shared)
    return [answers((1 - gain) * chance + gain, own) - other for _ in range(claims)]


def covered(*, claims: int, seeds: int, spread: Spread, experiments: int) -> float:
    """The share of 95 % intervals that hold the true difference, 0.05."""
    source = np.random.default_rng(0)
    hits = 0
    for _ in range(experiments):
        paired = experiment(source, claims=claims, seeds=seeds, spread=spread, gain=0.1)
        found = intervals(paired, seed=1, draws=QUICK)
        hits += sum(each.low <= 0.05 <= each.high for each in found)
    return hits / experiments / claims


def allowed(share: float, experiments: int) -> float:
    """Three deviations of a binomial."""
    return 3 * sqrt(share * (1 - share) / experiments)


@pytest.mark.parametrize(
    ("claims", "seeds", "spread", "experiments"),
    [
        (2, 3, 0.05, 150),
        pytest.param(1, 1, 0.0, 300, marks=pytest.mark.slow),
        pytest.param(1, 3, 0.05, 300, marks=pytest.mark.slow),
        pytest.param(8, 3, 0.0, 150, marks=pytest.mark.slow),
        pytest.param(8, 3, 0.05, 150, marks=pytest.mark.slow),
        pytest.param(8, 3, 0.1, 150, marks=pytest.mark.slow),
        pytest.param(8, 5, 0.05, 150, marks=pytest.mark.slow),
        pytest.param(9, 3, (0.15, 0.02), 150, marks=pytest.mark.slow),
        pytest.param(8, 8, (0.1, 0.0), 150, marks=pytest.mark.slow),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    claims: int, seeds: int, spread: Spread, experiments: int
) -> None:
    """Claims of a table go together, so experiments are counted, not intervals."""
    share = covered(claims=claims, seeds=seeds, spread=spread, experiments=experiments)
    assert share >= 0.95 - allowed(0.95, experiments)


@pytest.mark.parametrize(
    ("spread", "experiments"),
    [
        (0.0, 40),
        pytest.param(0.1, 150, marks=pytest.mark.slow),
        pytest.param((0.15, 0.02), 150, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_found_too_often_where_nothing_is(spread: Spread, experiments: int) -> None:
    """Any verdict among eight claims that are all wrong: in at most 5 % of the tables."""
    source = np.random.default_rng(1)
    false = 0
    for _ in range(experiments):
        paired = experiment(source, claims=8, seeds=3, spread=spread, gain=0.0)
        found = judge(paired, seed=0, draws=QUICK)
        false += any(judged.verdict != "open" for judged in found)
    assert false / experiments <= 0.05 + allowed(0.05, experiments)


def test_what_covers_is_not_endless() -> None:
    """Where seeds don't matter, eight are about as good as what is known of the variance."""
    tables = [table(8, 400, k, shift=0.1) for k in range(12)]
    found = intervals(tables, seed=0, draws=QUICK)
    known = 2 * 1.96 * tables[0].std() / sqrt(tables[0].size)
    for each in found:
        assert 0.75 * known < each.high - each.low < 1.7 * known


def test_where_seeds_are_all_that_differs_the_tails_are_students() -> None:
    """Three of them have two degrees of freedom: 4.3 deviations, not 2; so they have in company."""
    paired = np.array([[-0.1], [0.0], [0.1]]) + np.zeros((3, 50))
    ((variance, freedom),) = spread(paired[None])
    assert variance == pytest.approx(0.01 / 3)
    assert freedom == pytest.approx(2)
    found = interval(paired, seed=0)
    assert found.high - found.low > 2 * 3 * sqrt(variance)
    others = [table(3, 50, k) / 1e6 for k in range(2)]
    together = spread(np.stack([paired, *others, paired + others[0]]))
    assert together[0][1] == pytest.approx(2, rel=0.01)


def test_the_spread_is_that_of_the_analysis_of_variance() -> None:
    """On average over tables with known parts: seeds 0.04, problems 0.25, the rest 1."""
    source = np.random.default_rng(0)
    found = []
    for _ in range(60):
        rows, columns = source.normal(0, 0.2, (40, 4, 1)), source.normal(0, 0.5, (40, 1, 30))
        tables = rows + columns + source.normal(0, 1, (40, 4, 30))
        found += [variance for variance, _ in spread(tables)]
    known = 0.04 / 4 + 0.25 / 30 + 1 / 120
    assert known < np.mean(found) < 1.5 * known, "a table's seeds count for no less than on average"


# Symmetry and determinism


@settings(max_examples=40)
@given(TABLES)
def test_the_opposite_claim_has_the_opposite_interval(shape: tuple[int, int, int]) -> None:
    paired = table(*shape)
    ours, theirs = (interval(sign * paired, seed=5, draws=QUICK) for sign in (1, -1))
    assert (ours.low, ours.high) == (-theirs.high, -theirs.low)
    assert ours.estimate == -theirs.estimate
    opposite = {"holds": "fails", "fails": "holds", "open": "open"}
    assert verdict(theirs) == opposite[verdict(ours)]


@settings(max_examples=40)
@given(TABLES)
def test_the_same_seed_gives_the_same_draws_and_another_seed_others(
    shape: tuple[int, int, int],
) -> None:
    paired = table(*shape) + np.arange(shape[1]) / 3  # no two problems alike
    drawn = resampled(paired, seed=1, draws=QUICK)
    assert (drawn == resampled(paired, seed=1, draws=QUICK)).all()
    if shape[1] > 1:
        assert (drawn != resampled(paired, seed=2, draws=QUICK)).any()


@settings(max_examples=40)
@given(TABLES)
def test_the_order_of_seeds_and_of_problems_moves_no_more_than_noise(
    shape: tuple[int, int, int],
) -> None:
    paired = table(*shape)
    turned = paired[::-1, ::-1]
    ours, theirs = (resampled(t, seed=1, draws=QUICK) for t in (paired, turned))
    low, middle, high = np.quantile(ours, [0.25, 0.5, 0.75])
    assert abs(middle - np.median(theirs)) <= 0.25 * (high - low) + 1e-9


# Holm


@settings(max_examples=25)
@given(st.lists(st.floats(-0.6, 0.6), min_size=1, max_size=8), st.integers(1, 3))
def test_holms_verdicts_go_down_with_the_p_values(shifts: list[float], seeds: int) -> None:
    """No claim is decided whose p is above that of an open one, and none that alone would be
    open."""
    claims = [table(seeds, 40, k, shift=shift) for k, shift in enumerate(shifts)]
    found = judge(claims, seed=0, draws=QUICK)
    ordered = sorted(found, key=lambda judged: judged.p)
    decided = [judged.verdict != "open" for judged in ordered]
    assert decided == sorted(decided, reverse=True)
    for rank, judged in enumerate(ordered):
        left = len(claims) - min(rank, sum(decided))
        assert judged.interval.level == pytest.approx(1 - ERROR_RATE / left)
    uncorrected = intervals(claims, seed=0, draws=QUICK)
    for judged, alone in zip(found, uncorrected, strict=True):
        assert judged.interval.low <= alone.low
        assert judged.interval.high >= alone.high
        assert judged.verdict in ("open", verdict(alone))
        assert judged.interval.level >= 1 - ERROR_RATE


@settings(max_examples=40)
@given(TABLES, st.sampled_from([0.05, 0.02, 0.1, 0.3]))
def test_p_is_the_level_at_which_the_interval_leaves_zero_out(
    shape: tuple[int, int, int], rate: float
) -> None:
    paired = table(*shape, shift=0.4)
    found = interval(paired, seed=2, error_rate=rate, draws=QUICK)
    p = p_value(resampled(paired, seed=2, draws=QUICK))
    tail = int(rate / 2 * (QUICK + 1) + 1e-9)
    assert (verdict(found) != "open") == (p <= 2 * tail / (QUICK + 1))


# The smallest and the wrong


def test_one_seed_draws_problems_alone_and_says_so() -> None:
    paired = table(1, 200, 0, shift=0.3)
    found = interval(paired, seed=0)
    assert found.over == "problems"
    assert interval(np.vstack([paired, paired]), seed=0).over == "seeds and problems"
    known = 1.96 * paired.std() / sqrt(200)
    assert found.high - found.estimate == pytest.approx(known, rel=0.15)


def test_points_that_answer_alike_are_open() -> None:
    (found,) = judge([np.zeros((3, 50))], seed=0)
    assert (found.interval.low, found.interval.high, found.p) == (0.0, 0.0, 1.0)
    assert found.verdict == "open"


def test_points_that_differ_in_every_answer_hold() -> None:
    (found,) = judge([np.ones((2, 50))], seed=0)
    assert (found.interval.low, found.interval.high, found.verdict) == (1.0, 1.0, "holds")


def test_one_problem_is_judged_by_its_seeds() -> None:
    found = interval(np.array([[1.0], [0.0], [1.0]]), seed=0)
    assert found.low < 0 < found.high


def test_tables_of_another_shape_are_of_no_account() -> None:
    tables = [table(3, 9, 0), table(2, 9, 1), table(3, 9, 2), table(1, 4, 3)]
    together = resampled_all(tables, seed=4, draws=QUICK)
    alone = resampled_all([tables[0], tables[2]], seed=4, draws=QUICK)
    assert (together[0] == alone[0]).all()
    assert (together[2] == alone[1]).all()
    assert (together[1] == resampled(tables[1], seed=4, draws=QUICK)).all()
    assert (together[3] == resampled(tables[3], seed=4, draws=QUICK)).all()


def test_no_claims_are_no_table() -> None:
    assert judge([], seed=0) == []


@pytest.mark.parametrize(
    "paired", [np.zeros((0, 4)), np.zeros((2, 0)), np.zeros(3), np.full((1, 2), np.nan)], ids=str
)
def test_what_is_no_table_is_refused(paired: np.ndarray) -> None:
    with pytest.raises(ValueError, match="shape \\(seeds, problems\\)"):
        resampled(paired, seed=0)


def test_a_single_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="one answer to one problem has no spread"):
        judge([np.ones((1, 1))], seed=0)


def test_too_few_draws_for_the_level_are_refused() -> None:
    with pytest.raises(ValueError, match="19 draws are too few for an interval"):
        interval(np.ones((1, 2)), seed=0, draws=19)
