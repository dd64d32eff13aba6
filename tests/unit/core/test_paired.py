"""Figures of two runs on the same problems, and of several programs a problem."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from lorapar_core.statistics import mcnemar, paired_difference, pass_at_k, wilson


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # scipy 1.17.1: binomtest(min(b, c), b + c).pvalue
        (1, 0, 1.0),
        (5, 0, 0.0625),
        (6, 10, 0.454498291015625),
        (121, 59, 4.4344492637551645e-06),
        (150, 86, 3.7159361395713866e-05),
        (700, 640, 0.10697992524490962),
        (3000, 2800, 0.00896943600119357),
        (9000, 5042, 8.550262216091476e-248),
        (0, 0, 1.0),
        (7021, 7021, 1.0),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-10)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


@pytest.mark.parametrize("n", range(1, 11))
def test_mcnemar_counts_outcomes_at_least_as_uneven(n: int) -> None:
    coins = [abs(2 * sum(sides) - n) for sides in product((0, 1), repeat=n)]
    for only_first in range(n + 1):
        uneven = abs(2 * only_first - n)
        share = sum(other >= uneven for other in coins) / len(coins)
        assert mcnemar(only_first, n - only_first) == pytest.approx(share, abs=1e-15)


def test_mcnemar_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="are no counts"):
        mcnemar(-1, 3)


def test_a_published_difference() -> None:
    """Agresti, Categorical data analysis, approval of a prime minister in two surveys of the same
    1,600 people: 944 then 880, 150 and 86 changed their minds; -0.04 (-0.06 to -0.02)."""
    found = paired_difference(150, 86, 1600)
    assert [round(value, 2) for value in found] == [-0.04, -0.06, -0.02]


def test_a_difference_turns_round() -> None:
    there, back = paired_difference(7, 19, 80), paired_difference(19, 7, 80)
    assert there == pytest.approx((-back[0], -back[2], -back[1]))
    assert there[1] < there[0] < there[2]


@pytest.mark.parametrize(("n", "first", "second"), [(40, 0.05, 0.15), (200, 0.2, 0.2)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(
    n: int, first: float, second: float
) -> None:
    draws = np.random.default_rng(5).multinomial(n, [first, second, 1 - first - second], 4000)
    held = 0
    for only_first, only_second, _ in draws.tolist():
        _, low, high = paired_difference(only_first, only_second, n)
        held += low <= second - first <= high
    assert 0.93 < held / len(draws) < 0.98


@pytest.mark.parametrize(("counts", "trials"), [((0, 0), 5), ((5, 0), 5), ((0, 1), 1)])
def test_an_interval_stays_within_its_bounds_and_is_never_a_point(
    counts: tuple[int, int], trials: int
) -> None:
    difference, low, high = paired_difference(*counts, trials)
    assert -1 <= low <= difference <= high <= 1
    assert high - low > 0.1


@pytest.mark.parametrize("counts", [(0, 0, 0), (3, 3, 5), (-1, 2, 5)])
def test_a_difference_refuses_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="are no discordant counts"):
        paired_difference(*counts)


@pytest.mark.parametrize(("n", "correct", "k"), [(6, 2, 1), (6, 2, 3), (5, 0, 2), (4, 4, 4)])
def test_pass_at_k_is_the_share_of_draws_with_one_that_passes(n: int, correct: int, k: int) -> None:
    draws = list(combinations(range(n), k))
    share = sum(any(i < correct for i in draw) for draw in draws) / len(draws)
    assert pass_at_k(n, correct, k) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="no pass@"):
        pass_at_k(n, correct, k)


def test_wilson_of_a_mean_lies_between_those_of_its_neighbours() -> None:
    low, high = wilson(7.5, 20)
    assert wilson(7, 20)[0] < low < wilson(8, 20)[0]
    assert wilson(7, 20)[1] < high < wilson(8, 20)[1]
