"""Agreement and Dawid-Skene: no order counts, the systems are treated alike, limits are kept."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from lorapar_core.agreement import (
    alpha_interval,
    effective_teachers,
    error_correlation,
    fleiss_kappa,
    krippendorff_alpha,
    most_divided,
    pairs,
    raw_agreement,
    vote_correlation,
)
from lorapar_core.dawid_skene import dawid_skene

Ballots = NDArray[np.int8]


def tables(*, least: int = 0, teachers: int = 1) -> st.SearchStrategy[Ballots]:
    shapes = st.tuples(st.integers(1, 12), st.integers(teachers, 6))
    return arrays.arrays(np.int8, shapes, elements=st.integers(least, 2))


def figures(ballots: Ballots) -> tuple[object, ...]:
    """All that names neither an example nor a teacher."""
    return (
        raw_agreement(ballots),
        fleiss_kappa(ballots),
        krippendorff_alpha(ballots),
        alpha_interval(ballots, seed=0, draws=20),
        vote_correlation(ballots),
        effective_teachers(ballots),
    )


def turned(ballots: Ballots) -> Ballots:
    """Every vote for the other system."""
    return np.where(ballots > 0, 3 - ballots, 0).astype(np.int8)


def close(value: float | None) -> object:
    return None if value is None else pytest.approx(value, abs=1e-9)


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_examples_and_teachers_changes_no_figure(
    ballots: Ballots, source: random.Random
) -> None:
    rows, columns = list(range(ballots.shape[0])), list(range(ballots.shape[1]))
    source.shuffle(rows)
    source.shuffle(columns)
    shuffled = ballots[rows][:, columns]
    assert figures(shuffled) == figures(ballots)
    found = {(pair.first, pair.second): pair for pair in pairs(ballots)}
    for pair in pairs(shuffled):
        first, second = sorted((columns[pair.first], columns[pair.second]))
        same = found[first, second]
        assert replace(pair, first=0, second=1) == replace(same, first=0, second=1)


@given(tables())
def test_the_systems_are_treated_alike(ballots: Ballots) -> None:
    other = turned(ballots)
    assert raw_agreement(other) == close(raw_agreement(ballots))
    assert fleiss_kappa(other).kappa == close(fleiss_kappa(ballots).kappa)
    assert krippendorff_alpha(other) == close(krippendorff_alpha(ballots))
    assert vote_correlation(other) == close(vote_correlation(ballots))
    assert effective_teachers(other) == close(effective_teachers(ballots))
    assert pairs(other) == pairs(ballots)
    assert most_divided(other, 12).tolist() == most_divided(ballots, 12).tolist()


@given(st.lists(st.sampled_from([1, 2]), min_size=2, max_size=12), st.integers(2, 6))
def test_perfect_agreement_is_one(system: list[int], teachers: int) -> None:
    ballots = np.repeat(np.array(system, np.int8)[:, None], teachers, axis=1)
    assert raw_agreement(ballots) == 1
    assert effective_teachers(ballots) == 1
    assert all(pair.share == 1 for pair in pairs(ballots))
    if len(set(system)) > 1:
        assert krippendorff_alpha(ballots) == 1
        assert fleiss_kappa(ballots).kappa == 1
        assert all(pair.kappa == 1 for pair in pairs(ballots))
        interval = alpha_interval(ballots, seed=0)
        assert interval is not None
        assert (interval.low, interval.high) == (1, 1)
    fit = dawid_skene(ballots)
    assert np.array_equal(np.where(fit.posterior > 0.5, 2, 1), system)


@given(tables(least=1, teachers=2))
def test_on_complete_ballots_alpha_is_kappa_but_for_one_vote_in_all(ballots: Ballots) -> None:
    kappa, alpha = fleiss_kappa(ballots), krippendorff_alpha(ballots)
    assert kappa.rows == len(ballots)
    assert (alpha is None) == (kappa.kappa is None)
    if alpha is not None and kappa.kappa is not None:
        votes = ballots.size
        assert 1 - alpha == pytest.approx((1 - kappa.kappa) * (votes - 1) / votes)


@given(tables(teachers=2))
def test_the_figures_are_what_a_plain_count_of_pairs_says(ballots: Ballots) -> None:
    """Krippendorff's coincidences, vote by vote; and raw agreement, pair by pair."""
    shares, unlike, totals = [], 0.0, {1: 0, 2: 0}
    for row in ballots:
        votes = [int(vote) for vote in row if vote]
        if len(votes) < 2:
            continue
        alike = [a == b for a, b in combinations(votes, 2)]
        shares.append(sum(alike) / len(alike))
        unlike += (len(alike) - sum(alike)) / (len(votes) - 1)
        for vote in votes:
            totals[vote] += 1
    assert raw_agreement(ballots) == (close(sum(shares) / len(shares)) if shares else None)
    if not totals[1] or not totals[2]:
        assert krippendorff_alpha(ballots) is None
    else:
        expected = 1 - (sum(totals.values()) - 1) * unlike / (totals[1] * totals[2])
        assert krippendorff_alpha(ballots) == close(expected)


@given(tables())
def test_every_figure_keeps_its_limits(ballots: Ballots) -> None:
    teachers = ballots.shape[1]
    raw, alpha = raw_agreement(ballots), krippendorff_alpha(ballots)
    assert raw is None or 0 <= raw <= 1
    assert alpha is None or -1 <= alpha <= 1
    found = pairs(ballots)
    for value in (vote_correlation(ballots), *(p.kappa for p in found), *(p.phi for p in found)):
        assert value is None or -1 - 1e-12 <= value <= 1 + 1e-12
    effective = effective_teachers(ballots)
    assert effective is None or 1 - 1e-12 <= effective <= max(1, teachers)
    interval = alpha_interval(ballots, seed=1, draws=50)
    assert interval is None or interval.low <= interval.high <= 1
    assert interval is None or 0 <= interval.undefined < 50


@given(tables(), st.integers(2, 5))
def test_clones_of_a_teacher_are_one(ballots: Ballots, copies: int) -> None:
    clones = np.repeat(ballots[:, :1], copies, axis=1)
    assert effective_teachers(clones) == (1 if clones.any() else None)


@given(tables(), st.integers(1, 2))
def test_a_constant_teacher_adds_nothing(ballots: Ballots, system: int) -> None:
    constant = np.full((len(ballots), 1), system, np.int8)
    if ballots.any():
        joined = np.concatenate([ballots, constant], axis=1)
        assert effective_teachers(joined) == effective_teachers(ballots)


@given(tables())
def test_errors_against_one_system_correlate_as_the_votes_do(ballots: Ballots) -> None:
    """Where everything is System 1, a vote for System 2 is an error, and no other is."""
    truth = np.ones(len(ballots), np.int8)
    assert error_correlation(ballots, truth) == vote_correlation(ballots)
    assert error_correlation(ballots, truth * 0) is None


@given(tables(), st.integers(0, 12))
def test_the_most_divided_are_divided_and_in_order(ballots: Ballots, count: int) -> None:
    chosen = most_divided(ballots, count).tolist()
    ones, twos = (ballots == 1).sum(axis=1), (ballots == 2).sum(axis=1)
    divided = [i for i in range(len(ballots)) if ones[i] and twos[i]]
    margin = {i: abs(int(ones[i]) - int(twos[i])) / int(ones[i] + twos[i]) for i in divided}
    assert chosen == sorted(divided, key=lambda i: (margin[i], i))[:count]


@given(tables(), st.randoms(use_true_random=False))
def test_dawid_skene_takes_teachers_in_any_order(ballots: Ballots, source: random.Random) -> None:
    columns = list(range(ballots.shape[1]))
    source.shuffle(columns)
    fit, other = dawid_skene(ballots), dawid_skene(ballots[:, columns])
    np.testing.assert_allclose(other.posterior, fit.posterior, rtol=0, atol=1e-6)
    np.testing.assert_allclose(other.confusions, fit.confusions[columns], rtol=0, atol=1e-6)


@given(tables())
def test_dawid_skene_mirrors_turned_votes(ballots: Ballots) -> None:
    fit, other = dawid_skene(ballots), dawid_skene(turned(ballots))
    np.testing.assert_allclose(other.posterior, 1 - fit.posterior, rtol=0, atol=1e-6)
    np.testing.assert_allclose(other.prior, fit.prior[::-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(other.confusions, fit.confusions[:, ::-1, ::-1], rtol=0, atol=1e-6)


@given(tables(), st.floats(1e-3, 10))
def test_dawid_skene_gives_probabilities_and_equal_votes_get_equal_ones(
    ballots: Ballots, smoothing: float
) -> None:
    fit = dawid_skene(ballots, smoothing=smoothing, max_iterations=50)
    for probabilities in (fit.posterior, fit.confusions, fit.prior):
        assert np.all((probabilities >= 0) & (probabilities <= 1))
    np.testing.assert_allclose(fit.confusions.sum(axis=2), 1)
    seen: dict[bytes, float] = {}
    for row, probability in zip(ballots, fit.posterior.tolist(), strict=True):
        assert seen.setdefault(row.tobytes(), probability) == probability
