"""Make the adapter that is scored and trained."""

from __future__ import annotations

from lorapar_core.config import Recipe
from tasks.action import Action
from tasks.model import Model


def initialize(recipe: Recipe, *, model: Model) -> Action:
    # The full weights, whatever the quantization: see the stage.
    settings = recipe.model.model_dump(include={"dtype", "attention"})
    return Action(
        "initialize",
        "initialize",
        config={
            "lora": recipe.lora.model_dump(mode="json", exclude={"dropout"}),
            "model": settings,
            "base_name": model.identity,
        },
        inputs={"base": model.base},
    )
