"""The partition: exact selection, disjoint regions that cover, sets that grow with theta."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lorapar_core import ranking
from lorapar_core.partition import (
    ACTIVE,
    KEPT,
    Bits,
    active_mask,
    partition,
    random_control,
    regions,
)
from lorapar_core.ranking import Ranking

Scores = NDArray[np.float32]
values = st.lists(
    st.floats(min_value=0, max_value=1e6, width=32) | st.sampled_from([0.0, 1.0, 2.0]),
    min_size=1,
    max_size=60,
)
fractions = st.floats(min_value=0, max_value=1)
thetas = st.floats(min_value=1e-3, max_value=1)


def cut(
    scores: dict[int, Scores], *, theta: float, alpha: float = 1, beta: float = 1
) -> tuple[Bits, dict[int, float]]:
    rankings = {system: Ranking(values) for system, values in scores.items()}
    return partition(rankings, theta=theta, alpha=alpha, beta=beta)


@st.composite
def two_systems(draw: st.DrawFn) -> dict[int, Scores]:
    first = draw(values.filter(lambda v: sum(v) > 0))
    second = draw(
        st.lists(
            st.floats(min_value=0, max_value=1e6, width=32),
            min_size=len(first),
            max_size=len(first),
        ).filter(lambda v: sum(v) > 0)
    )
    return {1: np.array(first, np.float32), 2: np.array(second, np.float32)}


def walk(scores: Scores, theta: float) -> set[int]:
    """The example script's way: down the ranking, until the sum reaches theta of the total."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if theta == 1:
        return set(order)
    total = np.float64(0)
    for i in order:
        total += np.float64(scores[i])
    kept, before = set(), np.float64(0)
    for i in order:
        if before >= theta * total:
            break
        kept.add(i)
        before += np.float64(scores[i])
    return kept


@given(two_systems(), thetas)
def test_keeps_what_a_plain_walk_keeps(scores: dict[int, Scores], theta: float) -> None:
    bits, cuts = cut(scores, theta=theta)
    for system in (1, 2):
        kept = set(np.flatnonzero(bits & KEPT[system]).tolist())
        assert kept == walk(scores[system], theta)
        assert cuts[system] == min(scores[system][i] for i in kept)


@given(two_systems(), thetas, thetas)
def test_kept_and_active_sets_grow_with_theta(
    scores: dict[int, Scores], one: float, other: float
) -> None:
    small, large = sorted((one, other))
    fewer, _ = cut(scores, theta=small)
    more, _ = cut(scores, theta=large)
    for bit in (*KEPT.values(), *ACTIVE.values()):
        assert not np.any((fewer & bit) & ~(more & bit))


@given(two_systems(), thetas, fractions, fractions)
def test_active_is_own_and_the_top_fraction_of_shared(
    scores: dict[int, Scores], theta: float, alpha: float, beta: float
) -> None:
    bits, _ = cut(scores, theta=theta, alpha=alpha, beta=beta)
    shared = (bits & 3) == 3
    for system, fraction in ((1, alpha), (2, beta)):
        active = active_mask(bits, system)
        assert np.all(active[(bits & 3) == KEPT[system]])
        assert not np.any(active[(bits & KEPT[system]) == 0])
        chosen = scores[system][shared & active]
        left = scores[system][shared & ~active]
        assert len(chosen) <= fraction * shared.sum() + 1e-9
        assert len(chosen) + 1 > fraction * shared.sum() - 1e-9
        assert not len(chosen) or not len(left) or chosen.min() >= left.max()


@given(two_systems())
def test_theta_one_keeps_everything(scores: dict[int, Scores]) -> None:
    bits, _ = cut(scores, theta=1)
    assert np.all(bits == 15)


@given(two_systems(), thetas)
def test_regions_are_disjoint_and_cover(scores: dict[int, Scores], theta: float) -> None:
    bits, cuts = cut(scores, theta=theta, alpha=0.5, beta=0.5)
    found = regions({"x.layers.0.self_attn.q_proj.lora_A.weight": bits}, cuts)
    counts = found["counts"]
    parts = ("s1_only", "s2_only", "shared", "rest")
    assert sum(counts[part] for part in parts) == counts["elements"] == len(bits)
    assert found["by_place"]["0.q_proj"] == counts
    assert found["jaccard"] == pytest.approx(
        counts["shared"] / (counts["s1_only"] + counts["s2_only"] + counts["shared"])
    )


def test_ties_go_by_position() -> None:
    ranking = Ranking(np.array([1, 3, 3, 0, 3, -0.0], np.float32))
    firsts = [np.flatnonzero(ranking.first(count)).tolist() for count in range(7)]
    assert firsts == [[], [1], [1, 2], [1, 2, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    members = np.array([True, False, True, True, True, True])
    firsts = [np.flatnonzero(ranking.first_of(members, count)).tolist() for count in range(6)]
    assert firsts == [[], [2], [2, 4], [0, 2, 4], [0, 2, 3, 4], [0, 2, 3, 4, 5]]
    assert Ranking(np.array([2, 4, 1, 3], np.float32)).kept(0.7) == 2
    assert Ranking(np.array([2, 4, 1, 3], np.float32)).kept(0.71) == 3


@given(two_systems(), thetas, fractions, st.integers(min_value=1, max_value=7))
def test_long_rankings_are_cut_as_short_ones_are(
    scores: dict[int, Scores], theta: float, alpha: float, block: int
) -> None:
    """Running sums are kept for the first element of each block only."""
    whole = cut(scores, theta=theta, alpha=alpha)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK", block)
        blockwise = cut(scores, theta=theta, alpha=alpha)
    assert np.array_equal(whole[0], blockwise[0])
    assert whole[1] == blockwise[1]


@given(two_systems(), thetas, fractions, fractions, st.integers(min_value=0, max_value=9))
def test_a_random_control_has_the_same_counts(
    scores: dict[int, Scores], theta: float, alpha: float, beta: float, seed: int
) -> None:
    bits, _ = cut(scores, theta=theta, alpha=alpha, beta=beta)
    control = random_control(bits, seed=seed)
    assert np.array_equal(np.bincount(control, minlength=16), np.bincount(bits, minlength=16))
    assert np.array_equal(control, random_control(bits, seed=seed))


def test_a_random_control_hangs_on_its_seed_and_not_on_importance() -> None:
    bits = np.repeat(np.array([0, 5, 10, 15], np.uint8), 500)
    one, other = random_control(bits, seed=1), random_control(bits, seed=2)
    assert not np.array_equal(one, other)
    for value in (0, 5, 10, 15):  # each region is spread evenly: 500 of 2000, give or take 5 sigma
        front = np.count_nonzero(one[:1000] == value)
        assert abs(front - 250) < 5 * (2000 * 0.25 * 0.75 / 4) ** 0.5


@pytest.mark.parametrize("scores", [[], [1, np.nan], [np.inf], [-np.inf, 1], [1, -1], [0, 0]])
def test_what_can_not_be_ranked_is_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="can't be ranked"):
        Ranking(np.array(scores, np.float32))


def test_a_fraction_is_read_as_the_decimal_it_is_written_as() -> None:
    ones = {1: np.ones(10, np.float32), 2: np.ones(10, np.float32)}
    bits, _ = cut(ones, theta=1, alpha=0.7, beta=0.29)  # 0.29 * 100 is 28.999… in binary
    assert int(active_mask(bits, 1).sum()) == 7
    assert int(active_mask(bits, 2).sum()) == 2
