"""Make the adapter that is scored and trained."""

from __future__ import annotations

from typing import Any

from lorapar_core.config import Recipe
from tasks.action import Action
from tasks.model import Model


def initialize(recipe: Recipe, *, model: Model) -> Action:
    # The full weights, whatever the quantization: see the stage.
    settings = recipe.model.model_dump(include={"dtype", "attention"})
    return Action(
        "initialize",
        "initialize",
        config={**_adapter(recipe), "model": settings, "base_name": model.identity},
        inputs={"base": model.base},
    )


def _adapter(recipe: Recipe) -> dict[str, Any]:
    """What of the adapter is drawn: LoRA's section, or what another kind reads of its own."""
    kind = recipe.peft.kind
    if kind == "lora":
        return {"lora": recipe.lora.model_dump(mode="json", exclude={"dropout"})}
    read = {"kind"}
    if kind != "ia3":
        read.add("virtual_tokens")
    if kind == "p-tuning":
        read.add("encoder_hidden_size")
    return {"peft": recipe.peft.model_dump(mode="json", include=read), "seed": recipe.lora.seed}
