"""Which of a training step's figures a person follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "loss": "loss",
    "reward": "reward",
    "kl": "KL",
    "grad_norm": "grad norm",
    "completions/clipped_ratio": "clipped",
    "frac_reward_zero_std": "equal groups",
    "tokens_per_second": "tokens/s",
    "usd": "dollars",
}
"""The event's name (trl's, in training) -> ours: `clipped` is the share of completions cut at their
longest length, `equal groups` that of groups whose completions all earned the same; `grad norm` is
of active elements."""


def headline(event: Mapping[str, Any]) -> dict[str, float]:
    """The figures to show of a progress event."""
    found = {ours: event.get(name) for name, ours in NAMES.items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def parts(event: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each reward, of a progress event."""
    return {
        name.split("/")[1]: value
        for name, value in event.items()
        if name.startswith("rewards/") and name.endswith("/mean")
    }
