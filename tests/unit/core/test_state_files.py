"""Nested state comes back as it was, and nothing in it can be code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar_core.state_files import load_state, save_state

numbers = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
)
tensors = st.builds(
    lambda values, dtype: torch.tensor(values).to(dtype),
    st.lists(st.integers(0, 100), max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
states = st.recursive(
    st.one_of(numbers, tensors),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(deadline=None)
@given(state=states)
def test_it_comes_back_as_it_was(state: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("state")
    save_state(folder, "s", state)
    found = load_state(folder, "s")
    assert type(found) is type(state)
    assert same(state, found)


def test_floats_keep_their_bits_and_shared_tensors_come_apart(tmp_path: Path) -> None:
    both = torch.arange(3.0)
    state = {"lr": 0.1 + 0.2, "inf": math.inf, "one": both, "other": both[1:], 0: {"step": 7}}
    save_state(tmp_path, "s", state)
    found = load_state(tmp_path, "s")
    assert found["lr"] == 0.1 + 0.2
    assert found["inf"] == math.inf
    assert torch.equal(found["other"], torch.tensor([1.0, 2.0]))
    assert found[0] == {"step": 7}
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    json.loads((tmp_path / "s.json").read_text())


@pytest.mark.parametrize("value", [np.float64(1.0), {1}, b"bytes", object(), torch.float32])
def test_what_it_cannot_hold_is_refused_by_its_place(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^state\.a\.1 is a .*, which a checkpoint can't hold$"):
        save_state(tmp_path, "s", {"a": [0, value]})
