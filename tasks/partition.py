"""Choose the elements each system keeps and trains."""

from __future__ import annotations

from collections.abc import Mapping

from lorapar_core.config import Recipe
from tasks.action import Action, Outcome


def partition(recipe: Recipe, *, scores: Mapping[int, Outcome]) -> Action:
    return Action(
        "partition",
        "partition",
        config={"partition": recipe.partition.model_dump(mode="json")},
        inputs={
            f"importance/{system}": outcome["importance.safetensors"]
            for system, outcome in scores.items()
        },
    )
