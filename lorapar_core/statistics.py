"""Intervals for proportions, and tests of two runs on the same problems."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054


def wilson(successes: float, trials: int, *, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927), 95 % by default.

    Also for the mean of values between 0 and 1, with their sum as `successes`: no such values vary
    more than zeros and ones of the same mean, so the interval is at least as wide as it has to be.

    >>> low, high = wilson(5, 10); round(low, 4), round(high, 4)
    (0.2366, 0.7634)

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is no proportion")
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k programs passes, when `correct` of n did.

    1 − C(n − c, k) / C(n, k) (Chen et al. 2021).

    >>> pass_at_k(10, 3, 1), round(pass_at_k(10, 3, 5), 4)
    (0.3, 0.9167)

    Raises:
        ValueError: k is not from 1 to n, or more are correct than there are.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"no pass@{k} of {correct} correct among {n}")
    every = math.comb(n, k)
    return (every - math.comb(n - correct, k)) / every


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p value of McNemar's test that two runs are equally often right.

    Exact, whatever the counts: where just one of them is right it is either with chance 1/2, so
    that p is twice the binomial tail, at most 1. (McNemar 1947 takes a normal approximation.)

    >>> mcnemar(9, 1)
    0.021484375
    """
    fewer = min(only_first, only_second)
    n = only_first + only_second
    if fewer < 0:
        raise ValueError(f"{only_first} and {only_second} are no counts")
    ways = tail = 1
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def paired_difference(
    only_first: int, only_second: int, trials: int, *, z: float = Z_95
) -> tuple[float, float, float]:
    """How much more often the second of two runs is right, and an interval, 95 % by default.

    Wald's interval with half a problem added to each of the four counts (Agresti and Min 2005,
    "Simple improved confidence intervals for comparing matched proportions").

    >>> [round(value, 4) for value in paired_difference(150, 86, 1600)]
    [-0.04, -0.0587, -0.0212]

    Raises:
        ValueError: no trials, or more discordant ones than there are.
    """
    if min(only_first, only_second) < 0 or not 0 < trials >= only_first + only_second:
        raise ValueError(f"{only_first} and {only_second} of {trials} are no discordant counts")
    n, first, second = trials + 2, only_first + 0.5, only_second + 0.5
    middle = (second - first) / n
    half = z * math.sqrt(max(0.0, first + second - (second - first) ** 2 / n)) / n
    difference = (only_second - only_first) / trials
    return difference, max(-1.0, middle - half), min(1.0, middle + half)
