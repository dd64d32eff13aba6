"""Dawid & Skene's EM: against crowd-kit, by its own invariants, and on teachers we make up."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import crowdkit_oracle as oracle

from lorapar_core.agreement import krippendorff_alpha
from lorapar_core.dawid_skene import DawidSkene, dawid_skene


def votes_on(
    truth: NDArray[np.int64], accuracies: list[float], source: np.random.Generator
) -> NDArray[np.int8]:
    """Ballots of teachers that err independently of each other."""
    right = source.random((len(truth), len(accuracies))) < accuracies
    return np.where(right, truth[:, None], 3 - truth[:, None]).astype(np.int8)


def drawn(
    accuracies: list[float], *, seed: int, examples: int = 3000, system2: float = 0.4
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    source = np.random.default_rng(seed)
    truth = np.where(source.random(examples) < system2, 2, 1)
    return votes_on(truth, accuracies, source), truth


def majority(ballots: NDArray[np.int8]) -> NDArray[np.int64]:
    """Labels by majority, System 2 on a tie."""
    twos, ones = (ballots == 2).sum(axis=1), (ballots == 1).sum(axis=1)
    return np.where(twos >= ones, 2, 1)


def labels(fit: DawidSkene) -> NDArray[np.int64]:
    return np.where(fit.posterior >= 0.5, 2, 1)


def below_chance(fit: DawidSkene) -> NDArray[np.bool_]:
    """Teachers that vote for a system less often where it is the true one."""
    return fit.confusions[:, 0, 0] + fit.confusions[:, 1, 1] < 1


@cache
def stored() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(oracle.STORED.read_text())
    assert document["crowd-kit"] == oracle.VERSION
    return document


def assert_as_crowdkit(case: str, expected: dict[str, Any]) -> None:
    """Ours with as little smoothing as theirs, and as many iterations.

    They raise small counts to 1e-10, we add as much: on counts of 400 examples that moves a
    probability by some 1e-12, and EM may carry it on a hundredfold. They are stored to 12 digits.
    """
    ballots = oracle.seeded_votes(**oracle.CASES[case])
    fit = dawid_skene(
        ballots, smoothing=oracle.SMOOTHING, tolerance=-1.0, max_iterations=oracle.ITERATIONS
    )
    assert "".join(map(str, labels(fit))) == expected["labels"]
    near = {"rtol": 0, "atol": 1e-10}
    np.testing.assert_allclose(fit.posterior[: oracle.SHOWN], expected["posterior"], **near)
    np.testing.assert_allclose(fit.confusions, expected["confusions"], **near)
    assert fit.prior[1] == pytest.approx(expected["prior"], rel=0, abs=1e-10)
    assert krippendorff_alpha(ballots) == pytest.approx(expected["alpha"], rel=0, abs=2e-12)
    # The default smoothing and tolerance: nearly the same.
    usual = dawid_skene(ballots)
    assert usual.converged
    assert "".join(map(str, labels(usual))) == expected["labels"]
    np.testing.assert_allclose(
        usual.posterior[: oracle.SHOWN], expected["posterior"], rtol=0, atol=0.03
    )


@pytest.mark.parametrize("case", oracle.CASES)
def test_as_crowdkit_has_it(case: str) -> None:
    assert_as_crowdkit(case, stored()["cases"][case])


@pytest.mark.skipif(not oracle.available(), reason="needs crowd-kit, which is in no lock")
def test_crowdkit_still_has_it_so() -> None:
    recomputed = oracle.recompute()
    assert recomputed.keys() == stored()["cases"].keys()
    for case, expected in recomputed.items():
        assert_as_crowdkit(case, expected)


def test_one_step_by_hand() -> None:
    """Two teachers, smoothing 1: [1, 1] twice, [1, 2] and [2, 2].

    Shares for System 2: 0, 0, 1/2, 1. So 2.5 examples are of System 1 and 1.5 of System 2. The
    first teacher votes 1 on both examples of System 1 and on the half one: 2.5 to 0 there, 0.5 to
    1 on System 2; the second 2 to 0.5, and 0 to 1.5. Add 1 to each and normalize.
    """
    ballots = np.array([[1, 1], [1, 1], [1, 2], [2, 2]], np.int8)
    fit = dawid_skene(ballots, max_iterations=1)
    assert fit.iterations == 1
    assert not fit.converged
    np.testing.assert_allclose(fit.prior, [3.5 / 6, 2.5 / 6])
    np.testing.assert_allclose(
        fit.confusions,
        [
            [[3.5 / 4.5, 1 / 4.5], [1.5 / 3.5, 2 / 3.5]],
            [[3 / 4.5, 1.5 / 4.5], [1 / 3.5, 2.5 / 3.5]],
        ],
    )
    one = 3.5 / 6 * 3.5 / 4.5 * 1.5 / 4.5  # the third example
    two = 2.5 / 6 * 1.5 / 3.5 * 2.5 / 3.5
    assert fit.posterior[2] == pytest.approx(two / (one + two))


def test_every_iteration_gains_and_the_last_one_little() -> None:
    ballots, _ = drawn([0.9, 0.7, 0.6], seed=5, examples=300)
    ballots[::4, 1] = 0
    fit = dawid_skene(ballots)
    climb = [dawid_skene(ballots, max_iterations=k).objective for k in range(1, fit.iterations + 1)]
    assert fit.converged
    assert climb[-1] == fit.objective
    gains = np.diff(climb)
    assert np.all(gains[:-1] >= 1e-9)
    assert 0 <= gains[-1] < 1e-9


def test_at_its_end_it_explains_itself() -> None:
    """Prior and confusions are what the posterior counts, and the posterior what they imply."""
    ballots, _ = drawn([0.9, 0.8, 0.7, 0.6], seed=6, examples=500)
    fit = dawid_skene(ballots, tolerance=1e-14, max_iterations=5000)
    for t in range(4):
        two = [fit.posterior[ballots[:, t] == vote].sum() + 1 for vote in (1, 2)]
        np.testing.assert_allclose(fit.confusions[t, 1], two / np.sum(two), atol=1e-6)
    assert fit.prior[1] == pytest.approx((fit.posterior.sum() + 1) / 502, abs=1e-6)
    odds = np.log(fit.prior[1] / fit.prior[0]) + sum(
        np.log(fit.confusions[t, 1] / fit.confusions[t, 0])[ballots[:, t] - 1] for t in range(4)
    )
    np.testing.assert_allclose(fit.posterior, 1 / (1 + np.exp(-odds)), atol=1e-12)
    likelihoods = fit.prior[1] / fit.posterior
    for t in range(4):
        likelihoods *= fit.confusions[t, 1][ballots[:, t] - 1]
    penalty = np.log(fit.prior).sum() + np.log(fit.confusions).sum()
    assert fit.objective == pytest.approx((np.log(likelihoods).sum() + penalty) / 500)


def test_the_same_ballots_give_the_same_bytes_in_any_order_of_examples() -> None:
    ballots, _ = drawn([0.9, 0.8, 0.7], seed=7, examples=400)
    order = np.random.default_rng(0).permutation(400)
    first, again, shuffled = dawid_skene(ballots), dawid_skene(ballots), dawid_skene(ballots[order])
    for other, posterior in ((again, first.posterior), (shuffled, first.posterior[order])):
        assert other.posterior.tobytes() == posterior.tobytes()
        assert other.confusions.tobytes() == first.confusions.tobytes()
        assert other.prior.tobytes() == first.prior.tobytes()
        assert other.iterations == first.iterations


@pytest.mark.parametrize("seed", range(40))
def test_the_majority_names_the_classes(seed: int) -> None:
    """Teachers better than chance: none is read as worse, and most labels stay the majority's."""
    source = np.random.default_rng(seed)
    accuracies = source.uniform(0.65, 0.95, source.integers(3, 8)).tolist()
    share = source.uniform(0.2, 0.8)
    ballots, _ = drawn(accuracies, seed=seed, examples=300, system2=share)
    ballots[source.random(ballots.shape) < 0.2] = 0
    fit = dawid_skene(ballots)
    assert not below_chance(fit).any()
    assert np.mean(labels(fit) == majority(ballots)) > 0.75


def test_a_teacher_that_mistakes_the_systems_is_seen_and_turned_round() -> None:
    ballots, truth = drawn([0.9, 0.85, 0.85, 0.8, 0.1], seed=8)
    fit = dawid_skene(ballots)
    assert below_chance(fit).tolist() == [False] * 4 + [True]
    right = np.mean(labels(fit) == truth)
    assert right > np.mean(labels(dawid_skene(ballots[:, :4])) == truth)
    assert right > np.mean(majority(ballots) == truth) + 0.01


def test_confusions_are_found_again() -> None:
    ballots, _ = drawn([0.95, 0.85, 0.75, 0.65], seed=9, examples=20_000)
    fit = dawid_skene(ballots)
    diagonal = fit.confusions[:, [0, 1], [0, 1]]
    np.testing.assert_allclose(diagonal, np.transpose([[0.95, 0.85, 0.75, 0.65]] * 2), atol=0.025)
    assert fit.prior[1] == pytest.approx(0.4, abs=0.02)


def test_examples_without_votes_get_the_prior_and_change_nothing() -> None:
    ballots, _ = drawn([0.9, 0.8, 0.7], seed=10, examples=200)
    fit = dawid_skene(ballots)
    more = dawid_skene(np.concatenate([np.zeros((50, 3), np.int8), ballots]))
    assert more.posterior[50:].tobytes() == fit.posterior.tobytes()
    assert np.all(more.posterior[:50] == fit.prior[1])


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 3), (0, 0)])
def test_without_votes_it_knows_nothing(shape: tuple[int, int]) -> None:
    fit = dawid_skene(np.zeros(shape, np.int8))
    assert fit.converged
    assert fit.posterior.tolist() == [0.5] * shape[0]
    assert np.all(fit.confusions == 0.5)
    assert fit.confusions.shape == (shape[1], 2, 2)


def test_nothing_is_certain_however_united_the_teachers_are() -> None:
    fit = dawid_skene(np.array([[1] * 5, [2] * 5] * 1000, np.int8))
    for probabilities in (fit.posterior, fit.confusions, fit.prior):
        assert np.all((probabilities > 0) & (probabilities < 1))
    assert fit.confusions[0, 0, 1] == pytest.approx(1 / 1002)


def test_a_teacher_with_few_votes_does_not_outweigh_the_others() -> None:
    """It went along with the others 15 times, and once is the one to say System 2 with another.

    Without smoothing it then has never erred, so it is right there too, which proves it right.
    """
    ballots, _ = drawn([0.9, 0.9, 0.9], seed=11, examples=400)
    clear = np.flatnonzero((ballots == 1).all(axis=1))[:15]
    row = int(np.flatnonzero((ballots == 1).sum(axis=1) == 2)[0])
    few = np.zeros((400, 1), np.int8)
    few[clear], few[row] = 1, 2
    with_it = np.concatenate([ballots, few], axis=1)
    assert dawid_skene(with_it).posterior[row] < 0.4
    assert dawid_skene(with_it, smoothing=1e-10).posterior[row] > 0.999


def test_teachers_at_odds_on_everything_leave_it_undecided() -> None:
    fit = dawid_skene(np.array([[1, 2]] * 5 + [[2, 1]] * 5, np.int8))
    np.testing.assert_allclose(fit.posterior, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": 0.0}, r"smoothing 0\.0"),
        ({"smoothing": float("nan")}, "smoothing nan"),
        ({"max_iterations": 0}, "0 iterations"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dawid_skene(np.array([[1, 2]], np.int8), **options)


def test_what_is_no_table_of_votes_is_refused() -> None:
    with pytest.raises(ValueError, match="values from 1 to 3"):
        dawid_skene(np.array([[1, 3]], np.int8))


def accuracies_of(ballots: NDArray[np.int8], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Share of right labels by majority, and by Dawid and Skene."""
    fitted = labels(dawid_skene(ballots))
    return float(np.mean(majority(ballots) == truth)), float(np.mean(fitted == truth))


NOISE = 0.006
"""Two standard errors of a share of 0.97 among 3,000."""


def test_five_equal_teachers_are_no_better_weighed_than_counted() -> None:
    ballots, truth = drawn([0.85] * 5, seed=0)
    by_majority, weighed = accuracies_of(ballots, truth)
    assert by_majority == pytest.approx(0.973, abs=0.01)  # binomial: 3 or more of 5 are right
    assert abs(weighed - by_majority) < NOISE


def test_teachers_of_mixed_quality_are_better_weighed_than_counted() -> None:
    ballots, truth = drawn([0.95, 0.9, 0.7, 0.65, 0.6], seed=0)
    by_majority, weighed = accuracies_of(ballots, truth)
    assert weighed > by_majority + 2 * NOISE


@pytest.mark.parametrize("accuracies", [[0.85] * 5, [0.95, 0.9, 0.7, 0.65, 0.6]])
def test_failures_that_teachers_share_are_beyond_both(accuracies: list[float]) -> None:
    """On 12 of 100 examples all teachers see the other system; they err on their own besides."""
    source = np.random.default_rng(0)
    truth = np.where(source.random(3000) < 0.4, 2, 1)
    seen = np.where(source.random(3000) < 0.12, 3 - truth, truth)
    ballots = votes_on(seen, accuracies, source)
    ceiling = float(np.mean(seen == truth))
    assert all(right < ceiling + NOISE for right in accuracies_of(ballots, truth))
    # Measured against what the teachers see, it looks as good as ever: votes alone don't tell.
    assert accuracies_of(ballots, seen)[1] > 0.95


def test_two_teachers_that_copy_each_other_take_it_over_and_not_the_majority() -> None:
    """Three of 0.85 by themselves, and one of 0.75 that is asked twice."""
    ballots, truth = drawn([0.85, 0.85, 0.85, 0.75], seed=0)
    twice = np.concatenate([ballots, ballots[:, 3:]], axis=1)
    by_majority, weighed = accuracies_of(twice, truth)
    assert by_majority == pytest.approx(0.9, abs=0.015)
    assert weighed == pytest.approx(0.75, abs=0.015)
    assert dawid_skene(twice).confusions[4, 0, 0] > 0.99  # each proves the other right
    # The same votes, counted once each, are weighed rightly.
    assert accuracies_of(ballots, truth)[1] > by_majority
