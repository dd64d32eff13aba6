"""Train the active elements of a system: supervised, or by GRPO."""

from __future__ import annotations

from typing import Any

from lorapar_core.config import Recipe, StageConfig
from tasks.action import Action, Input
from tasks.model import settings


def train(
    recipe: Recipe,
    stage: StageConfig,
    *,
    name: str,
    base: Input,
    adapter: Input,
    initial: Input,
    masks: Input,
    labels: Input,
    tokens: Input,
    examples: Input,
) -> Action:
    """`adapter` is what the stage starts from, `initial` the one before any stage."""
    common: dict[str, Any] = {
        "system": stage.system,
        "data": stage.data,
        "epochs": stage.epochs,
        "model": settings(recipe.model),
    }
    inputs = {
        "base": base,
        "adapter": adapter,
        "masks": masks,
        "labels": labels,
        "tokens": tokens,
    }
    if stage.kind == "sft":
        section = recipe.sft.model_dump(mode="json", exclude={"prompt"})
        config = {**common, "sft": section, "dropout": recipe.lora.dropout}
        return Action("sft", name, config=config, inputs=inputs)
    excluded = {"prompt", "system_prompt", "max_prompt_length"}  # they are in the tokens
    if recipe.grpo.engine == "transformers":  # as it was when there was no other: the key stays
        excluded.add("engine")
    section = recipe.grpo.model_dump(mode="json", exclude=excluded)
    config = {**common, "grpo": section, "answer_format": answer_format(recipe, "grpo")}
    inputs["examples"] = examples
    # PiSSA and OLoRA train on a residual: with their first adapter it is the base model.
    residual = recipe.lora.init != "gaussian"
    wanted = recipe.grpo.kl_reference
    if recipe.grpo.kl_coefficient and (wanted == "initial" or (wanted == "base" and residual)):
        inputs["reference"] = initial
    return Action("grpo", name, config=config, inputs=inputs)


def answer_format(recipe: Recipe, kind: str) -> str:
    """How answers after a stage of `kind` look: `tags` or `hash`."""
    return "tags" if kind == "grpo" and recipe.grpo.prompt == "tags" else "hash"
