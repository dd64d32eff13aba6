"""The profile: at every theta of its grid it says what the partition itself would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_inputs import run_stage

from lorapar_core.errors import ModelError
from lorapar_core.partition import partition, place_of, regions, split
from lorapar_core.profile_importance import (
    BINS,
    THETAS,
    binned,
    by_place,
    first_kept,
    plane_counts,
)
from lorapar_core.ranking import Ranking, Scores

KEYS = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (2, 5),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (3, 2),
    "base_model.model.model.layers.10.mlp.up_proj.lora_A.weight": (2, 6),
    "odd.lora_A.weight": (1, 2),
}
ELEMENTS = sum(a * b for a, b in KEYS.values())
# Few values, so that most elements tie with others.
importances = st.lists(
    st.sampled_from([0.0, 0.5, 1.0, 3.0]) | st.floats(0, 100, width=32),
    min_size=ELEMENTS,
    max_size=ELEMENTS,
).filter(lambda values: sum(values) > 0)


def flat(values: list[float]) -> Scores:
    return np.array(values, np.float32)


@given(importances, importances)
def test_every_theta_has_the_partitions_counts(one: list[float], two: list[float]) -> None:
    scores = {1: flat(one), 2: flat(two)}
    sizes = {key: a * b for key, (a, b) in KEYS.items()}
    firsts = {system: first_kept(values) for system, values in scores.items()}
    told = by_place({system: levels for system, (levels, _) in firsts.items()}, sizes)
    assert set(told) == {"0.q_proj", "10.up_proj", "odd.lora_A.weight"}
    rankings = {system: Ranking(values) for system, values in scores.items()}
    for k, theta in enumerate(THETAS):
        bits, cuts = partition(rankings, theta=theta, alpha=1, beta=1)
        expected = regions(split(bits, KEYS), cuts)["by_place"]
        for place, counts in told.items():
            assert counts["elements"] == expected[place]["elements"]
            for region in ("s1_only", "s2_only", "shared"):
                assert counts[region][k] == expected[place][region]
        for system in (1, 2):
            assert firsts[system][1][k] == cuts[system]


@given(importances, importances)
def test_the_plane_holds_every_element_once(one: list[float], two: list[float]) -> None:
    scores = {1: flat(one), 2: flat(two)}
    bins = {system: binned(values)[0] for system, values in scores.items()}
    counts = plane_counts(bins)
    assert sum(count for _, _, count in counts) == ELEMENTS
    assert all(0 <= i < BINS and 0 <= j < BINS and count for i, j, count in counts)
    assert len({(i, j) for i, j, _ in counts}) == len(counts)


@given(importances)
def test_a_more_important_element_is_in_no_lower_bin(values: list[float]) -> None:
    scores = flat(values)
    bins, (low, high) = binned(scores)
    order = np.argsort(scores, kind="stable")
    assert (np.diff(bins[order].astype(int)) >= 0).all()
    assert low < high
    assert scores.max() <= np.float32(10.0**high)
    middle = np.float32(10 ** (low + (high - low) / 2))
    assert ((scores >= middle) == (bins >= BINS // 2)).all()


def test_an_axis_has_at_most_twelve_decades() -> None:
    bins, (low, high) = binned(flat([1e-30, 0.0, 2.0]))
    assert (low, high) == (-11, 1)
    assert bins[:2].tolist() == [0, 0]


def test_the_grid_has_the_papers_thetas() -> None:
    assert {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0} <= set(THETAS)
    assert list(THETAS) == sorted(THETAS)


def importance_files(folder: Path, **changed: Scores) -> dict[str, Path]:
    draws = np.random.default_rng(0)
    paths = {}
    for system in (1, 2):
        tensors = {key: draws.random(shape, np.float32) for key, shape in KEYS.items()}
        path = folder / f"importance-{system}.safetensors"
        save_file({**tensors, **(changed if system == 2 else {})}, path)
        paths[f"importance/{system}"] = path
    return paths


def test_the_stage_writes_one_small_file(tmp_path: Path) -> None:
    inputs = importance_files(tmp_path)
    out = run_stage("profile", {}, inputs, tmp_path / "out")
    (file,) = out.iterdir()
    told: dict[str, Any] = json.loads(file.read_text())
    assert told["thetas"] == list(THETAS)
    assert sum(place["elements"] for place in told["places"].values()) == ELEMENTS
    assert all(place["shared"][-1] == place["elements"] for place in told["places"].values())
    assert all(len(cuts) == len(THETAS) for cuts in told["cuts"].values())
    again = run_stage("profile", {}, inputs, tmp_path / "again")
    assert (again / "profile.json").read_bytes() == file.read_bytes()


def test_importances_of_two_adapters_are_refused(tmp_path: Path) -> None:
    inputs = importance_files(tmp_path, more=np.ones(3, np.float32))
    with pytest.raises(ModelError, match="different adapters"):
        run_stage("profile", {}, inputs, tmp_path / "out")


def test_a_tensor_without_a_layer_keeps_its_key() -> None:
    assert [place_of(key) for key in KEYS][-1] == "odd.lora_A.weight"
