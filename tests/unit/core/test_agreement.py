"""Agreement of votes: figures worked by hand or in the literature, and where none is defined."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from lorapar_core.agreement import (
    AlphaInterval,
    Fleiss,
    Pair,
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


def ballots(*rows: list[int]) -> NDArray[np.int8]:
    return np.array(rows, np.int8)


def independent(
    *accuracies: float, examples: int = 20_000, seed: int = 0, system2: float = 0.5
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Votes of teachers that err independently of each other, and the truth."""
    source = np.random.default_rng(seed)
    truth = np.where(source.random(examples) < system2, 2, 1).astype(np.int8)
    right = source.random((examples, len(accuracies))) < accuracies
    return np.where(right, truth[:, None], 3 - truth[:, None]).astype(np.int8), truth


def test_krippendorffs_own_example_of_binary_data() -> None:
    """From his "Computing Krippendorff's Alpha-Reliability" (2011): alpha = 0.095."""
    one = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    other = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    votes = np.array([one, other], np.int8).T + np.int8(1)
    alpha = krippendorff_alpha(votes)
    assert alpha == pytest.approx(0.095, abs=5e-4)
    # 20 values, 14 of one kind and 6 of the other; 4 of 10 units are unlike.
    assert alpha == pytest.approx(1 - 19 * 4 / (14 * 6))


def test_krippendorffs_alpha_with_missing_votes_by_hand() -> None:
    votes = ballots(
        [1, 1, 1, 0],  # 3 votes, 0 unlike
        [1, 2, 2, 2],  # 1 * 3 / 3 = 1
        [0, 2, 0, 1],  # 1 * 1 / 1 = 1
        [2, 2, 0, 2],  # 0
        [0, 0, 1, 0],  # a single vote: doesn't count
        [0, 0, 0, 0],
    )
    # N1 = 3 + 1 + 1 = 5, N2 = 3 + 1 + 3 = 7.
    assert krippendorff_alpha(votes) == pytest.approx(1 - 11 * 2 / (5 * 7))


def test_fleiss_kappa_by_hand() -> None:
    votes = ballots(
        [1, 1, 1],  # P = 1
        [1, 1, 2],  # P = 1/3
        [1, 2, 2],  # P = 1/3
        [2, 2, 2],  # P = 1
        [1, 2, 0],  # not complete
    )
    # Mean P = 2/3; six votes of twelve for each system, so chance is 1/2.
    assert fleiss_kappa(votes) == Fleiss(pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2)), 4)
    assert raw_agreement(votes) == pytest.approx((8 / 3 + 0) / 5)


def test_cohens_kappa_by_hand() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes and 15 no-no: agreement 0.7, chance 0.5, kappa 0.4."""
    rows = [[1, 1]] * 20 + [[1, 2]] * 5 + [[2, 1]] * 10 + [[2, 2]] * 15
    assert pairs(ballots(*rows)) == [
        Pair(0, 1, 50, 0.7, pytest.approx(0.4), pytest.approx(250 / (25 * 25 * 30 * 20) ** 0.5))
    ]


def test_pairs_count_the_examples_that_both_voted_on() -> None:
    votes = ballots([1, 1, 0], [2, 1, 0], [1, 0, 2], [2, 2, 0])
    assert pairs(votes) == [
        Pair(0, 1, 3, 2 / 3, pytest.approx(0.4), pytest.approx(0.5)),
        Pair(0, 2, 1, 0.0, 0.0, None),
        Pair(1, 2, 0, None, None, None),
    ]


def test_cohens_kappa_is_not_defined_where_chance_agrees_fully() -> None:
    assert pairs(ballots([2, 2], [2, 2])) == [Pair(0, 1, 2, 1.0, None, None)]
    assert pairs(ballots([1, 2], [1, 2])) == [Pair(0, 1, 2, 0.0, 0.0, None)]


@pytest.mark.parametrize(
    "votes",
    [
        np.zeros((0, 3), np.int8),
        np.zeros((4, 0), np.int8),
        np.zeros((4, 3), np.int8),
        ballots([1], [2], [1]),
        ballots([1, 0], [0, 2]),
    ],
)
def test_without_two_votes_on_an_example_nothing_is_defined(votes: NDArray[np.int8]) -> None:
    assert raw_agreement(votes) is None
    assert krippendorff_alpha(votes) is None
    assert alpha_interval(votes, seed=0) is None
    assert fleiss_kappa(votes).kappa is None
    assert vote_correlation(votes) is None


def test_votes_for_one_system_only_have_no_alpha_and_no_kappa() -> None:
    votes = np.full((5, 3), 2, np.int8)
    assert raw_agreement(votes) == 1
    assert krippendorff_alpha(votes) is None
    assert alpha_interval(votes, seed=0) is None
    assert fleiss_kappa(votes) == Fleiss(None, 5)


def test_an_example_without_a_second_vote_is_complete_for_a_single_teacher_only() -> None:
    assert fleiss_kappa(ballots([1], [2], [0])) == Fleiss(None, 2)
    assert fleiss_kappa(ballots([1, 1], [2, 0], [0, 2])) == Fleiss(None, 1)


def test_the_interval_holds_alpha_and_hangs_on_its_seed_alone() -> None:
    votes, _ = independent(0.9, 0.8, 0.8, examples=500)
    alpha = krippendorff_alpha(votes)
    interval = alpha_interval(votes, seed=3)
    assert alpha is not None
    assert interval is not None
    assert interval.low < alpha < interval.high
    assert interval.undefined == 0
    assert alpha_interval(votes, seed=3) == interval
    assert alpha_interval(votes[::-1], seed=3) == interval
    assert alpha_interval(votes, seed=4) != interval


def test_the_interval_covers_the_true_alpha_about_95_times_in_100() -> None:
    truth, _ = independent(0.9, 0.8, 0.75, examples=400_000)
    alpha = krippendorff_alpha(truth)
    assert alpha is not None
    hits = 0
    for k in range(400):
        interval = alpha_interval(truth[k * 300 : (k + 1) * 300], seed=k, draws=500)
        assert interval is not None
        hits += interval.low <= alpha <= interval.high
    assert 366 <= hits <= 394  # 380, give or take three sigma of 4.4


def test_the_interval_agrees_with_resampled_rows() -> None:
    """One multinomial a draw stands for drawing the examples one by one."""
    votes, _ = independent(0.9, 0.8, 0.7, examples=200)
    votes[::3, 2] = 0
    source = np.random.default_rng(1)
    drawn = [krippendorff_alpha(votes[source.integers(0, 200, 200)]) for _ in range(2000)]
    low, high = np.quantile(np.array(drawn, np.float64), [0.025, 0.975])
    interval = alpha_interval(votes, seed=2, draws=2000)
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=0.02)
    assert interval.high == pytest.approx(high, abs=0.02)


def test_draws_with_a_single_system_are_left_out_and_counted() -> None:
    """One example of six is of the other system: (5/6)**6 of the draws miss it."""
    votes = ballots([2, 2], *[[1, 1]] * 5)
    interval = alpha_interval(votes, seed=0)
    assert interval is not None
    assert (interval.low, interval.high) == (1, 1)
    assert 0.29 < interval.undefined / 1000 < 0.38
    single = [alpha_interval(votes, seed=seed, draws=1) for seed in range(30)]
    assert set(single) == {None, AlphaInterval(1.0, 1.0, 0)}


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="0 bootstrap draws"):
        alpha_interval(ballots([1, 2]), seed=0, draws=0)


def test_the_interval_of_a_whole_data_set_takes_well_under_a_second() -> None:
    votes, _ = independent(*[0.85] * 5, examples=15_000)
    began = time.process_time()
    assert alpha_interval(votes, seed=0) is not None
    assert time.process_time() - began < 0.5


def test_clones_are_worth_one_teacher() -> None:
    votes, _ = independent(0.8, examples=101)
    clones = np.repeat(votes, 5, axis=1)
    assert vote_correlation(clones) == 1
    assert effective_teachers(clones) == 1
    clones[::7] = 0
    assert effective_teachers(clones) == 1


def test_constant_teachers_are_not_independent_ones() -> None:
    assert effective_teachers(np.full((9, 2), 2, np.int8)) == 1
    assert effective_teachers(np.array([[1, 2]] * 9, np.int8)) == 1
    votes, _ = independent(0.8, 0.8)
    with_constant = np.concatenate([votes, np.full((len(votes), 2), 2, np.int8)], axis=1)
    assert effective_teachers(with_constant) == effective_teachers(votes)


def test_teachers_that_share_no_example_can_not_be_compared() -> None:
    assert effective_teachers(ballots([1, 0], [2, 0], [0, 1], [0, 2])) is None
    assert effective_teachers(np.zeros((3, 2), np.int8)) is None
    assert effective_teachers(ballots([1], [2])) == 1


def test_teachers_that_contradict_each_other_count_in_full_and_not_more() -> None:
    votes = ballots([1, 2], [2, 1], [1, 2])
    assert vote_correlation(votes) == pytest.approx(-1)
    assert effective_teachers(votes) == 2


def test_coin_flips_are_as_many_teachers_as_there_are() -> None:
    votes, _ = independent(0.5, 0.5, 0.5, 0.5)
    assert effective_teachers(votes) == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(("accuracy", "teachers"), [(0.85, 1.69), (0.95, 1.18)])
def test_right_votes_look_like_copied_ones(accuracy: float, teachers: float) -> None:
    """phi is (2 a - 1)**2 for independent errors and balanced systems."""
    votes, truth = independent(*[accuracy] * 5)
    assert effective_teachers(votes) == pytest.approx(teachers, abs=0.03)
    assert error_correlation(votes, truth) == pytest.approx(0, abs=0.02)


def test_a_copied_pair_hides_in_the_mean_and_shows_among_the_pairs() -> None:
    votes, _ = independent(*[0.85] * 5)
    copied = votes.copy()
    copied[:, 4] = copied[:, 3]
    apart, together = effective_teachers(votes), effective_teachers(copied)
    assert apart is not None
    assert together is not None
    assert 0 < apart - together < 0.15
    phis = [pair.phi for pair in pairs(copied)]
    assert phis[-1] == 1
    assert phis[:-1] == pytest.approx([0.49] * 9, abs=0.03)


@pytest.mark.parametrize("system2", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("shared", [0.0, 0.05, 0.1])
def test_equal_teachers_votes_correlate_at_least_as_their_errors(
    shared: float, system2: float
) -> None:
    votes, truth = independent(*[0.9] * 4, system2=system2, seed=1)
    fails = np.random.default_rng(2).random(len(truth)) < shared
    votes[fails] = 3 - truth[fails, None]
    by_votes, by_errors = vote_correlation(votes), error_correlation(votes, truth)
    assert by_votes is not None
    assert by_errors is not None
    assert by_votes > by_errors - 0.01


def test_a_shared_bias_shows_in_the_errors_and_not_in_the_votes() -> None:
    """Teachers that call nearly everything System 2, and are wrong on the same examples."""
    source = np.random.default_rng(0)
    truth = np.where(source.random(40_000) < 0.5, 2, 1).astype(np.int8)
    sees_one = source.random((40_000, 3)) < 0.05
    votes = np.where((truth == 1)[:, None] & sees_one, 1, 2).astype(np.int8)
    assert vote_correlation(votes) == pytest.approx(0.026, abs=0.02)
    assert error_correlation(votes, truth) == pytest.approx(0.905, abs=0.01)


def test_errors_are_counted_where_the_truth_is_known_and_someone_voted() -> None:
    votes = ballots([1, 1], [2, 2], [2, 1], [1, 1], [0, 1], [2, 2])
    truth = np.array([1, 1, 2, 1, 2, 0], np.int8)
    # Errors of both over rows 0 to 3: 0 1 0 0 and 0 1 1 0.
    assert error_correlation(votes, truth) == pytest.approx((2 - 0) / (1 * 3 * 2 * 2) ** 0.5)


def test_teachers_that_never_err_have_no_error_correlation() -> None:
    votes = ballots([1, 1], [2, 2])
    assert error_correlation(votes, np.array([1, 2], np.int8)) is None


def test_a_truth_of_another_length_or_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="3 true systems for 2 examples"):
        error_correlation(ballots([1], [2]), np.array([1, 2, 1], np.int8))
    with pytest.raises(ValueError, match="values from 1 to 3"):
        error_correlation(ballots([1], [2]), np.array([1, 3], np.int8))


def test_the_most_divided_examples_come_first_and_the_united_ones_not_at_all() -> None:
    votes = ballots(
        [1, 1, 1, 1, 2],  # 3/5
        [1, 1, 1, 2, 2],  # 1/5
        [1, 2, 0, 0, 0],  # 0
        [2, 2, 2, 2, 2],
        [2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 1, 2, 2, 0],  # 0
        [1, 2, 2, 0, 0],  # 1/3
        [1, 1, 0, 1, 2],  # 1/2
    )
    assert most_divided(votes, 9).tolist() == [2, 6, 1, 7, 8, 0]
    assert most_divided(votes, 2).tolist() == [2, 6]
    assert most_divided(votes, 0).tolist() == []


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        (np.array([1, 2], np.int8), r"int8 of shape \(2,\)"),
        (np.array([[1.0, 2.0]]), "not float64"),
        (np.array([[1, 3]], np.int8), "values from 1 to 3"),
        (np.array([[-1, 2]], np.int8), "values from -1 to 2"),
    ],
)
def test_what_is_no_table_of_votes_is_refused(votes: NDArray[np.int8], message: str) -> None:
    for figure in (raw_agreement, krippendorff_alpha, fleiss_kappa, pairs, effective_teachers):
        with pytest.raises(ValueError, match=message):
            figure(votes)
