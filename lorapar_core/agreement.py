"""How far the teachers' votes on System 1 and System 2 agree, and how many teachers they are worth.

Every function takes `ballots`, integers of shape (examples, teachers): 1 or 2 is the system voted
for, 0 is no vote, because the teacher abstained or was not asked. A figure that is not defined is
None and never a number that stands in for it. With n1 and n2 votes on an example, m in all:

    raw agreement          mean of (n1(n1-1) + n2(n2-1)) / (m(m-1)) over examples with m >= 2
    Fleiss' kappa          (raw - chance) / (1 - chance), examples that all voted on only
    Krippendorff's alpha   1 - (N-1) * sum(n1 n2 / (m-1)) / (N1 N2), examples with m >= 2
    effective teachers     n / (1 + (n-1) rho), rho the mean correlation of two teachers

N1, N2 and N add n1, n2 and m up. On complete ballots 1 - alpha = (1 - kappa) (N-1) / N.

Sources: Fleiss (1971), Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011, nominal
data), Cohen (1960), and for the effective number the design effect of Kish (1965). The papers take
any number of categories; here there are two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Ballots = NDArray[np.int8]
Counts = NDArray[np.int64]
Table = tuple[int, int, int, int]
"""Examples on which two teachers voted 1 and 1, 1 and 2, 2 and 1, 2 and 2."""


@dataclass(frozen=True, slots=True)
class Fleiss:
    """Fleiss' kappa and what it rests on."""

    kappa: float | None
    rows: int
    """Examples that every teacher voted on: the only ones it counts."""


@dataclass(frozen=True, slots=True)
class AlphaInterval:
    """A 95 % interval of Krippendorff's alpha."""

    low: float
    high: float
    undefined: int
    """Draws that were left out, because all their votes were for one system."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two teachers, by their columns."""

    first: int
    second: int
    both: int
    """Examples that both voted on."""
    share: float | None
    """Share of those on which they voted alike; None if there are none."""
    kappa: float | None
    """Cohen's kappa; None if there are none, or each voted for one and the same system only."""
    phi: float | None
    """Correlation of the votes; None if one of the two voted for a single system only."""


def check_ballots(ballots: Ballots) -> None:
    """Refuses what is no table of votes.

    Raises:
        ValueError: not two dimensions, not integers, or a value other than 0, 1 and 2.
    """
    if ballots.ndim != 2 or not np.issubdtype(ballots.dtype, np.integer):
        raise ValueError(
            f"ballots are integers of shape (examples, teachers), not {ballots.dtype} of "
            f"shape {ballots.shape}"
        )
    if ballots.size and not (ballots.min() >= 0 and ballots.max() <= 2):
        raise ValueError(
            f"ballots hold values from {ballots.min()} to {ballots.max()}; expected 1, 2, or 0 "
            "for no vote"
        )


def raw_agreement(ballots: Ballots) -> float | None:
    """Share of pairs of votes that are alike, 0 to 1: its mean over examples with two votes.

    None if no example has two.

    >>> raw_agreement(np.array([[1, 1, 2], [2, 2, 2], [1, 0, 0]], np.int8)) == (1 / 3 + 1) / 2
    True

    Raises:
        ValueError: see `check_ballots`.
    """
    ones, twos, times = _splits(ballots)
    return float(times @ _alike(ones, twos) / times.sum()) if len(times) else None


def fleiss_kappa(ballots: Ballots) -> Fleiss:
    """Fleiss' kappa over the examples that every teacher voted on, -1 to 1.

    None if there is no such example, fewer than two teachers, or a single system in all votes,
    where chance alone agrees fully.

    Raises:
        ValueError: see `check_ballots`.
    """
    check_ballots(ballots)
    complete = ballots[(ballots > 0).all(axis=1)] if ballots.shape[1] else ballots[:0]
    ones, twos, times = _splits(complete)
    all_ones, all_twos = int(times @ ones), int(times @ twos)
    if not all_ones or not all_twos:
        return Fleiss(None, len(complete))
    agree = float(times @ _alike(ones, twos)) / len(complete)
    chance = (all_ones**2 + all_twos**2) / (all_ones + all_twos) ** 2
    return Fleiss((agree - chance) / (1 - chance), len(complete))


def krippendorff_alpha(ballots: Ballots) -> float | None:
    """Krippendorff's alpha for nominal data: at most 1, 0 at chance. Missing votes are allowed.

    An example with fewer than two votes has no pair of votes and doesn't count. None if the others
    are voted for one system only, so that nothing could have differed, or there are no others.

    Raises:
        ValueError: see `check_ballots`.
    """
    ones, twos, times = _splits(ballots)
    alpha = float(_alphas(times[None], ones, twos)[0])
    return None if math.isnan(alpha) else alpha


def alpha_interval(ballots: Ballots, *, seed: int, draws: int = 1000) -> AlphaInterval | None:
    """95 % percentile bootstrap of `krippendorff_alpha` over the examples with two votes or more.

    Alpha sees of an example only how many votes each system has, so a draw is one multinomial over
    the distinct (n1, n2). Draws without both systems have no alpha; they are left out and counted.
    None if every draw is such a one, as where alpha itself is None.

    The same seed gives the same interval, as long as numpy's Generator draws the same: another
    numpy may move it by the noise of `draws`.

    Raises:
        ValueError: see `check_ballots`; or `draws` is below 1.
    """
    if draws < 1:
        raise ValueError(f"{draws} bootstrap draws give no interval; expected 1 or more")
    ones, twos, times = _splits(ballots)
    if not len(times):
        return None
    source = np.random.default_rng(seed)
    drawn = source.multinomial(times.sum(), times / times.sum(), size=draws)
    alphas = _alphas(drawn, ones, twos)
    defined = alphas[~np.isnan(alphas)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return AlphaInterval(float(low), float(high), draws - len(defined))


def pairs(ballots: Ballots) -> list[Pair]:
    """Every two teachers and how they agree, over the examples that both voted on.

    In the order of the columns: (0, 1), (0, 2), ..., (1, 2), ...

    Raises:
        ValueError: see `check_ballots`.
    """
    return [
        Pair(a, b, sum(table), _share(table), _cohen(table), _phi(table))
        for a, b, table in _tables(ballots)
    ]


def vote_correlation(ballots: Ballots) -> float | None:
    """Mean phi of two teachers' votes, -1 to 1: Pearson's correlation over what both voted on.

    A pair is left out where one of the two voted for a single system there: phi is not defined.
    None if every pair is.

    Raises:
        ValueError: see `check_ballots`.
    """
    found = [pair.phi for pair in pairs(ballots) if pair.phi is not None]
    return math.fsum(found) / len(found) if found else None


def effective_teachers(ballots: Ballots) -> float | None:
    """How many uncorrelated teachers the votes are worth: n / (1 + (n-1) rho), 1 to n.

    n counts the teachers that voted for both systems and rho is their `vote_correlation`, or 0
    where that is negative. A teacher that only ever votes for one system tells no example from
    another, so it is left out: it neither adds a teacher nor makes the others look independent.
    Where fewer than two are left, the votes are worth 1. So clones come out as 1, and so do
    teachers that all vote the same on everything. None if nobody voted, or no two of the n
    teachers voted for both systems on examples they share.

    Without the true systems, votes that agree because they are right look the same as votes that
    are copied. Five teachers that err independently, each in 15 of 100, come out as 1.7 where half
    of the truth is System 2, and as 1.2 if they err in 5 of 100. For equally reliable teachers
    whose errors don't hang on the true system it is a lower bound on how independent the *errors*
    are: the votes correlate at least as much. It is no bound for a bias that teachers share: if all
    call nearly everything System 2, their errors are nearly the same, while their few other votes
    may be uncorrelated. `error_correlation` sees that, but needs the truth. And it is a mean: a
    single copied pair among five teachers hardly lowers it, and stands out in `pairs`.

    Raises:
        ValueError: see `check_ballots`.
    """
    check_ballots(ballots)
    varied = (ballots == 1).any(axis=0) & (ballots == 2).any(axis=0)
    teachers = int(np.count_nonzero(varied))
    if teachers < 2:
        return 1.0 if ballots.any() else None
    rho = vote_correlation(ballots)  # which leaves the others out itself
    return None if rho is None else teachers / (1 + (teachers - 1) * max(0.0, rho))


def error_correlation(ballots: Ballots, truth: NDArray[np.int8]) -> float | None:
    """Mean phi of two teachers' errors, -1 to 1, where the true systems are known.

    `truth`: integers of shape (examples,), 1 or 2, or 0 where unknown; those are left out, and so
    is a pair of which one is never wrong, or always, on the examples that both voted on. None if
    every pair is.

    Raises:
        ValueError: see `check_ballots`; or `truth` has another length or other values.
    """
    check_ballots(ballots)
    check_ballots(truth[:, None])
    if len(truth) != len(ballots):
        raise ValueError(f"{len(truth)} true systems for {len(ballots)} examples")
    known = (ballots > 0) & (truth[:, None] > 0)
    verdicts = np.where(known, np.where(ballots == truth[:, None], 1, 2), 0).astype(np.int8)
    return vote_correlation(verdicts)


def most_divided(ballots: Ballots, count: int) -> Counts:
    """Rows of the examples that divide the teachers most, at most `count` of them (int64).

    By |n1 - n2| / m, least first, ties by row. Examples with no vote against another are left out.

    >>> most_divided(np.array([[1, 1, 2], [2, 2, 2], [1, 0, 2], [2, 1, 2]], np.int8), 2)
    array([2, 0])

    Raises:
        ValueError: see `check_ballots`.
    """
    ones, twos = _votes(ballots)
    rows = np.flatnonzero((ones > 0) & (twos > 0))
    ones, twos = ones[rows], twos[rows]
    # Equal fractions are equal floats: a quotient is rounded the same from 1/3 as from 2/6.
    return rows[np.argsort(np.abs(ones - twos) / (ones + twos), kind="stable")][: max(0, count)]


def _votes(ballots: Ballots) -> tuple[Counts, Counts]:
    """n1 and n2 of every example, each of shape (examples,)."""
    check_ballots(ballots)
    return np.count_nonzero(ballots == 1, axis=1), np.count_nonzero(ballots == 2, axis=1)


def _splits(ballots: Ballots) -> tuple[Counts, Counts, Counts]:
    """The distinct (n1, n2) with two votes or more, and how many examples have each.

    Neither the order of the examples nor that of the teachers leaves a trace in them.
    """
    ones, twos = _votes(ballots)
    base = ballots.shape[1] + 1
    enough = ones + twos >= 2
    times = np.bincount((ones * base + twos)[enough], minlength=1)
    found = np.flatnonzero(times)
    return found // base, found % base, times[found]


def _alike(ones: Counts, twos: Counts) -> NDArray[np.float64]:
    """Share of an example's pairs of votes that are alike."""
    votes = ones + twos
    alike: NDArray[np.float64] = (ones * (ones - 1) + twos * (twos - 1)) / (votes * (votes - 1))
    return alike


def _alphas(times: Counts, ones: Counts, twos: Counts) -> NDArray[np.float64]:
    """Alpha of every row of `times`, shape (draws, splits); NaN where it is not defined."""
    unlike = times @ (ones * twos / (ones + twos - 1))
    all_ones, all_twos = times @ ones, times @ twos
    expected = all_ones * all_twos
    alphas = np.full(len(times), np.nan)
    defined = expected > 0
    votes = all_ones + all_twos
    alphas[defined] = 1 - ((votes - 1) * unlike)[defined] / expected[defined]
    return alphas


def _tables(ballots: Ballots) -> Iterator[tuple[int, int, Table]]:
    check_ballots(ballots)
    one, two = (ballots == 1).astype(np.int64), (ballots == 2).astype(np.int64)
    counts = np.stack([one.T @ one, one.T @ two, two.T @ one, two.T @ two], axis=-1)
    for a, b in combinations(range(ballots.shape[1]), 2):
        n11, n12, n21, n22 = counts[a, b].tolist()  # Python's integers: products don't overflow
        yield a, b, (n11, n12, n21, n22)


def _share(table: Table) -> float | None:
    n11, _, _, n22 = table
    return (n11 + n22) / sum(table) if any(table) else None


def _cohen(table: Table) -> float | None:
    n11, n12, n21, n22 = table
    votes = sum(table)
    chance = (n11 + n12) * (n11 + n21) + (n21 + n22) * (n12 + n22)  # times votes squared
    if chance == votes**2:
        return None
    return (votes * (n11 + n22) - chance) / (votes**2 - chance)


def _phi(table: Table) -> float | None:
    n11, n12, n21, n22 = table
    spread = (n11 + n12) * (n21 + n22) * (n11 + n21) * (n12 + n22)
    return (n11 * n22 - n12 * n21) / math.sqrt(spread) if spread else None
