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
(MS_seeds + MS_problems - MS_rest) / SP in the two-way analysis of variance. And three seeds hardly
tell how much seeds differ: f are the degrees of freedom of V (Satterthwaite 1946), few where seeds
make most of it, so that intervals get Student's tails. tests/property/test_claims_properties.py
has the coverages: 95 to 99 % from three seeds on, where without the roots they were 80 to 100 %;
two seeds are too few (90 %). With one seed only problems are drawn, and the interval says nothing
of another seed.

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
    """`draws` bootstrap means of each table, shape (seeds, problems). The same seed draws the same
    seeds and problems for all tables of one shape.

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
    widened = [_widened(t, means, seed=seed) for t, means in zip(tables, found, strict=True)]
    rounded: NDArray[np.float64] = np.round(np.stack(widened), DIGITS)
    return rounded


def _widened(table: Paired, means: Draws, *, seed: int) -> Draws:
    """Bootstrap means with the variance and the tails that the mean of `table` has."""
    variance, freedom = spread(table)
    drawn = float(means.var())
    if drawn == 0 or variance == 0:
        return means
    source = np.random.default_rng([seed, 1])
    tails = np.sqrt(freedom / source.chisquare(freedom, size=len(means)))
    estimate = table.mean()
    widened: Draws = estimate + (means - estimate) * sqrt(variance / drawn) * tails
    return widened


def spread(table: Paired) -> tuple[float, float]:
    """Variance of the mean of a table, shape (seeds, problems), of which both are samples, and its
    degrees of freedom, at least 1.

    Unbiased, but never below that of independent answers. Of a table with one seed (or problem) it
    is that over problems (or seeds).

    Raises:
        ValueError: a single number has no spread.
    """
    seeds, problems = table.shape
    if table.size < 2:
        raise ValueError("one answer to one problem has no spread; give more problems or seeds")
    estimate = table.mean()
    rows, columns = table.mean(axis=1) - estimate, table.mean(axis=0) - estimate
    rest = table - estimate - rows[:, None] - columns
    squares = (problems * rows @ rows, seeds * columns @ columns, float((rest**2).sum()))
    freedoms = (seeds - 1, problems - 1, (seeds - 1) * (problems - 1))
    parts = [s / f / table.size if f else 0.0 for s, f in zip(squares, freedoms, strict=True)]
    variance = max(parts[0] + parts[1] - parts[2], parts[2])
    below = sum(part**2 / f for part, f in zip(parts, freedoms, strict=True) if f)
    return float(variance), max(1.0, float(variance**2 / below)) if below else float(table.size)


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
