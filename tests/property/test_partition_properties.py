"""The partition: exact selection, disjoint regions that cover, sets that grow with theta."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lorapar_core.partition import ACTIVE, KEPT, active_mask, kept_count, partition, rank, regions

Scores = NDArray[np.float32]
values = st.lists(
    st.floats(min_value=0, max_value=1e6, width=32) | st.sampled_from([0.0, 1.0, 2.0]),
    min_size=1,
    max_size=60,
)
fractions = st.floats(min_value=0, max_value=1)
thetas = st.floats(min_value=1e-3, max_value=1)


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
    bits, cuts = partition(scores, theta=theta, alpha=1, beta=1)
    for system in (1, 2):
        kept = set(np.flatnonzero(bits & KEPT[system]).tolist())
        assert kept == walk(scores[system], theta)
        assert cuts[system] == min(scores[system][i] for i in kept)


@given(two_systems(), thetas, thetas)
def test_kept_and_active_sets_grow_with_theta(
    scores: dict[int, Scores], one: float, other: float
) -> None:
    small, large = sorted((one, other))
    fewer, _ = partition(scores, theta=small, alpha=1, beta=1)
    more, _ = partition(scores, theta=large, alpha=1, beta=1)
    for bit in (*KEPT.values(), *ACTIVE.values()):
        assert not np.any((fewer & bit) & ~(more & bit))


@given(two_systems(), thetas, fractions, fractions)
def test_active_is_own_and_the_top_fraction_of_shared(
    scores: dict[int, Scores], theta: float, alpha: float, beta: float
) -> None:
    bits, _ = partition(scores, theta=theta, alpha=alpha, beta=beta)
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
    bits, _ = partition(scores, theta=1, alpha=1, beta=1)
    assert np.all(bits == 15)


@given(two_systems(), thetas)
def test_regions_are_disjoint_and_cover(scores: dict[int, Scores], theta: float) -> None:
    bits, cuts = partition(scores, theta=theta, alpha=0.5, beta=0.5)
    found = regions({"x.layers.0.self_attn.q_proj.lora_A.weight": bits}, cuts)
    counts = found["counts"]
    parts = ("s1_only", "s2_only", "shared", "rest")
    assert sum(counts[part] for part in parts) == counts["elements"] == len(bits)
    assert found["by_place"]["0.q_proj"] == counts
    assert found["jaccard"] == pytest.approx(
        counts["shared"] / (counts["s1_only"] + counts["s2_only"] + counts["shared"])
    )


def test_ties_go_by_position() -> None:
    assert rank(np.array([1, 3, 3, 0, 3], np.float32)).tolist() == [1, 2, 4, 0, 3]
    assert kept_count(np.array([4, 3, 2, 1], np.float32), 0.7) == 2
    assert kept_count(np.array([4, 3, 2, 1], np.float32), 0.71) == 3


def test_a_fraction_is_read_as_the_decimal_it_is_written_as() -> None:
    ones = {1: np.ones(10, np.float32), 2: np.ones(10, np.float32)}
    bits, _ = partition(ones, theta=1, alpha=0.7, beta=0.29)  # 0.29 * 100 is 28.999… in binary
    assert int(active_mask(bits, 1).sum()) == 7
    assert int(active_mask(bits, 2).sum()) == 2
