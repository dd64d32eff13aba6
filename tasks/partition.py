"""Choose the elements each system keeps and trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorapar_core.config import PartitionConfig, Recipe
from tasks.action import Action, Outcome


def partition(recipe: Recipe, *, scores: Mapping[int, Outcome]) -> Action:
    """Masks by `recipe.partition`, of each system's outcome of `score`."""
    return Action(
        "partition",
        "partition",
        config={"partition": _identity(recipe.partition)},
        inputs={
            f"importance/{system}": outcome["importance.safetensors"]
            for system, outcome in scores.items()
        },
    )


def _identity(config: PartitionConfig) -> dict[str, Any]:
    """A choice by importance draws nothing: its seed changes nothing."""
    unread = {"choice", "seed"} if config.choice == "importance" else set()
    return config.model_dump(mode="json", exclude=unread)
