"""The canonical text is an identity: what has two texts, or none, is refused by its path."""

import enum
import math
from typing import Any

import pytest

from artifacts import action_key, canonical_json


class Colour(enum.StrEnum):
    RED = "red"


def test_text_is_sorted_dense_utf8() -> None:
    assert canonical_json({"b": [1, 1.0, None, True], "a": "é"}) == (
        '{"a":"é","b":[1,1.0,null,true]}'.encode()
    )


def test_integral_floats_stay_floats() -> None:
    assert canonical_json(1.0) == b"1.0"
    assert canonical_json(1) == b"1"
    assert canonical_json(True) == b"true"


def test_tuples_are_lists() -> None:
    assert canonical_json({"a": (1, 2)}) == canonical_json({"a": [1, 2]})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800", {"\udfff": 1}])
def test_values_without_a_text_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\$\.sft\[1\]"):
        canonical_json({"sft": [0, value]})


@pytest.mark.parametrize("value", [b"x", {1, 2}, object(), {1: 2}, {None: 2}, Colour.RED, 1j])
def test_unknown_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"\$\.sft\[1\]"):
        canonical_json({"sft": [0, value]})


def test_a_cycle_is_refused() -> None:
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="deeper than 100"):
        canonical_json(value)


KEY = {"stage": "sft", "version": 1, "config": {"lr": 0.1}, "inputs": {"adapter": "ab" * 32}}


def test_action_key_is_pinned() -> None:
    """Every store in use depends on this value: it may change only with a reason to recompute."""
    assert action_key(**KEY) == "c4a51e055a4366279b349b1a4ea1c117c170e913eefa7912a75e662af827a5b7"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "grpo"},
        {"version": 2},
        {"config": {"lr": 0.2}},
        {"config": {}},
        {"inputs": {"adapter": "cd" * 32}},
        {"inputs": {"base": "ab" * 32}},
    ],
)
def test_every_part_is_in_the_key(change: dict[str, Any]) -> None:
    assert action_key(**KEY) != action_key(**{**KEY, **change})


@pytest.mark.parametrize(
    "change", [{"version": True}, {"version": "1"}, {"inputs": {"adapter": None}}]
)
def test_action_key_refuses_wrong_types(change: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        action_key(**{**KEY, **change})
