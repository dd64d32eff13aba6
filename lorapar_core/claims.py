"""Whether a difference between points of a sweep is there: paired by seed and by problem.

A claim is a contrast: weights w_k of points, that add up to 0. With X_k[s, p] = 1 where point k,
trained with seed s, answers test problem p right, and S seeds and P problems,

    D[s, p]  = sum_k w_k X_k[s, p]
    estimate = mean of D
    b        = sum_sp (m_s/S) D[s, p] (n_p/P)                      m, n multinomial
    draw     = estimate + (b - estimate) sqrt(V / var b) sqrt(f / c)          c ~ chi-square of f

where seeds and problems are drawn anew, independently of each other (crossed, the "pigeonhole"
bootstrap of Owen 2007). By itself b is off in two ways, which the two roots mend. It counts the
noise of a single answer in both directions: V is the variance of the mean without that,
(MS_seeds + MS_problems - MS_rest) / SP of the two-way analysis of variance. And few seeds hardly
tell how much seeds differ: so in none of a table's claims MS_seeds / MS_rest counts for less than
it is on average, and f are the degrees of freedom of V (Satterthwaite 1946), which give intervals
Student's tails where few seeds make most of V. Three seeds have two degrees of freedom whatever the
number of claims, for claims that share a point share its luck: that makes intervals wide, and more
seeds are what helps. Without the roots 95 % intervals covered between 80 and 100 %
(tests/property/test_claims_properties.py). With one seed only problems are drawn, and the interval
says nothing of another seed.

Within a table Holm's step-down rule (1979) keeps the chance of any false verdict below 5 %: the
claim with the k-th smallest p of m gets an interval of level 1 - 0.05/(m-k+1), until one contains
0; the rest keep that one's level. *holds*: the interval lies above 0, *fails*: below, *open*: it
contains 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DRAWS = 9_999
"""With one more the tails of usual levels are whole numbers of draws."""
ERROR_RATE = 0.05
CHUNK = 512
"""Draws at a time: problems may be many."""
DIGITS = 12
"""A draw that is 0 is 0, in whatever order its terms were added up."""
Paired = NDArray[np.float64]
"""Shape (seeds, problems)."""
Draws = NDArray[np.float64]
"""Shape (draws,)."""
Verdict = Literal["holds", "fails", "open"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile interval."""

    estimate: float
    low: float
    high: float
    level: float
    """How much of the draws lies in it: 0.95, or more where it is corrected."""
    over: Literal["seeds and problems", "problems"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim's interval as it is corrected within its table, and what follows."""

    interval: Interval
    p: float
    """Two-sided, before the correction: the least level of error at which 0 is left out."""
    verdict: Verdict


def resampled(tables: Sequence[Paired], *, seed: int, draws: int = DRAWS) -> list[Draws]:
    """`draws` bootstrap means of each table, shape (seeds, problems). Tables of one shape get the
    same seeds and problems, and tell together how much seeds differ.

    Raises:
        ValueError: a table has no seeds or no problems, is none of numbers, or is a single number.
    """
    found: dict[int, Draws] = {}
    shapes: dict[tuple[int, ...], list[int]] = {}
    for k, table in enumerate(tables):
        if table.ndim != 2 or not table.size or not np.isfinite(table).all():
            raise ValueError(f"expected numbers of shape (seeds, problems), not {table.shape}")
        shapes.setdefault(table.shape, []).append(k)
    for members in shapes.values():
        means = _means(np.stack([tables[k] for k in members]), seed=seed, draws=draws)
        found |= zip(members, means, strict=True)
    return [found[k] for k in range(len(tables))]


def _means(tables: NDArray[np.float64], *, seed: int, draws: int) -> NDArray[np.float64]:
    """Shape (tables, seeds, problems) -> (tables, draws)."""
    _, seeds, problems = tables.shape
    source = np.random.default_rng(seed)
    chunks = []
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        by_seed = _multinomial(source, seeds, size) / seeds
        by_problem = _multinomial(source, problems, size) / problems
        chunks.append(np.stack([((by_seed @ t) * by_problem).sum(axis=1) for t in tables]))
    found = np.concatenate(chunks, axis=1)
    spreads = spread(tables)
    widened = [_widened(m, *of, seed=seed) for m, of in zip(found, spreads, strict=True)]
    return np.array(widened, dtype=np.float64).round(DIGITS)


def _widened(means: Draws, variance: float, freedom: float, *, seed: int) -> Draws:
    """Bootstrap means with the variance and the tails that the mean itself has."""
    drawn = float(means.var())
    if drawn == 0 or variance == 0:
        return means
    source = np.random.default_rng([seed, 1])
    tails = np.sqrt(freedom / source.chisquare(freedom, size=len(means)))
    centre = means.mean()
    widened: Draws = centre + (means - centre) * sqrt(variance / drawn) * tails
    return widened


def spread(tables: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Variance of each table's mean, shape (tables, seeds, problems), with seeds and problems both
    taken as samples; and its degrees of freedom, at least 1.

    Of tables with one seed (or problem) it is that over problems (or seeds). How much seeds differ
    is no less than in all tables on average: as the ratio of their mean square to the rest's, which
    no problem's difficulty and no contrast's weights move.

    Raises:
        ValueError: a single number has no spread.
    """
    count, seeds, problems = tables.shape
    size = seeds * problems
    if size < 2:
        raise ValueError("one answer to one problem has no spread; give more problems or seeds")
    centred = tables - tables.mean(axis=(1, 2), keepdims=True)
    rows, columns = centred.mean(axis=2), centred.mean(axis=1)
    rest = centred - rows[:, :, None] - columns[:, None, :]
    freedoms = (seeds - 1, problems - 1, (seeds - 1) * (problems - 1))
    squares = (problems * (rows**2).sum(1), seeds * (columns**2).sum(1), (rest**2).sum((1, 2)))
    by_seed, by_problem, left = (
        s / f / size if f else np.zeros(count) for s, f in zip(squares, freedoms, strict=True)
    )
    noisy = left > 0
    if noisy.any():
        by_seed = np.maximum(by_seed, left * (by_seed[noisy] / left[noisy]).mean())
    variance = np.maximum(by_seed + by_problem - left, left)
    below = sum(
        part**2 / f for part, f in zip((by_seed, by_problem, left), freedoms, strict=True) if f
    )
    return [
        (float(v), max(1.0, float(v**2 / b)) if b else float(size))
        for v, b in zip(variance, np.broadcast_to(below, count), strict=True)
    ]


def _multinomial(source: np.random.Generator, kinds: int, size: int) -> NDArray[np.float64]:
    """How often each of `kinds` is drawn in `kinds` draws, shape (size, kinds)."""
    return source.multinomial(kinds, np.full(kinds, 1 / kinds), size=size).astype(np.float64)


def intervals(
    tables: Sequence[Paired], *, seed: int, error_rate: float = ERROR_RATE, draws: int = DRAWS
) -> list[Interval]:
    """The mean of each table, shape (seeds, problems), with its interval of level 1 - error_rate.

    Raises:
        ValueError: see `resampled`; or the draws are too few for the level.
    """
    found = resampled(tables, seed=seed, draws=draws)
    return [_interval(t, np.sort(f), error_rate) for t, f in zip(tables, found, strict=True)]


def judge(claims: Sequence[Paired], *, seed: int, draws: int = DRAWS) -> list[Judged]:
    """The claims of one table, each D of shape (seeds, problems), corrected by Holm's rule.

    Raises:
        ValueError: see `intervals`.
    """
    found = [np.sort(values) for values in resampled(claims, seed=seed, draws=draws)]
    ps = [p_value(values) for values in found]
    judged: dict[int, Judged] = {}
    level, stopped = ERROR_RATE, False
    for rank, k in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if not stopped:
            level = ERROR_RATE / (len(ps) - rank)
        corrected = _interval(claims[k], found[k], level)
        judged[k] = Judged(corrected, ps[k], verdict(corrected))
        stopped = stopped or judged[k].verdict == "open"
    return [judged[k] for k in range(len(ps))]


def verdict(corrected: Interval) -> Verdict:
    """Where the interval lies."""
    if corrected.low > 0:
        return "holds"
    return "fails" if corrected.high < 0 else "open"


def p_value(draws: Draws) -> float:
    """Twice the share of draws on the other side of 0, or on it, with the estimate counted as one.

    It is at most an error rate just when the interval at that rate leaves 0 out.
    """
    beyond = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return min(1.0, 2 * (1 + int(beyond)) / (len(draws) + 1))


def _interval(paired: Paired, found: Draws, error_rate: float) -> Interval:
    """`found`: the draws, sorted."""
    tail = floor(error_rate / 2 * (len(found) + 1) + 1e-9)
    if tail < 1:
        raise ValueError(
            f"{len(found)} draws are too few for an interval at {error_rate:g}; draw at least "
            f"{floor(2 / error_rate)}"
        )
    return Interval(
        estimate=float(paired.mean()),
        low=float(found[tail - 1]),
        high=float(found[len(found) - tail]),
        level=1 - error_rate,
        over="seeds and problems" if len(paired) > 1 else "problems",
    )
