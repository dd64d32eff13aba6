"""Train the active elements of a system: supervised, or by GRPO."""

from __future__ import annotations

from typing import Any

from lorapar_core.config import Recipe, StageConfig
from tasks.action import Action, Input
from tasks.model import settings
from tasks.programs import JUDGED

TRAINING = frozenset({"sft", "grpo"})
"""Stages that train."""
RUN_PROGRAMS = {"code", "execution"}
"""Rewards that run programs."""


def train(
    recipe: Recipe,
    stage: StageConfig,
    *,
    name: str,
    base: Input,
    adapter: Input,
    initial: Input,
    masks: Input | None,
    labels: Input | None,
    tokens: Input,
    examples: Input,
) -> Action:
    """`adapter` is what the stage starts from, `initial` the one before any stage.

    A stage of every element reads no masks, and one of those on all examples no labels.
    """
    common: dict[str, Any] = {
        "system": stage.system,
        "data": stage.data,
        "epochs": stage.epochs,
        "model": settings(recipe.model),
    }
    inputs = {"base": base, "adapter": adapter, "tokens": tokens}
    if masks is not None and stage.system != "full":
        inputs["masks"] = masks
    if labels is not None and (stage.system != "full" or stage.data != "all"):
        inputs["labels"] = labels
    if stage.kind == "sft":
        section = recipe.sft.model_dump(mode="json", exclude={"prompt"})
        dropout = recipe.lora.dropout if recipe.peft.kind == "lora" else 0.0
        config = {**common, "sft": section, "dropout": dropout}
        return Action("sft", name, config=config, inputs=inputs)
    excluded = {"prompt", "system_prompt", "max_prompt_length"}  # they are in the tokens
    if recipe.grpo.engine == "transformers":  # as it was when there was no other: the key stays
        excluded.add("engine")
    section = recipe.grpo.model_dump(mode="json", exclude=excluded)
    judged = JUDGED if RUN_PROGRAMS & recipe.grpo.rewards.keys() else {}
    config = {**common, **judged, "grpo": section, "answer_format": answer_format(recipe, "grpo")}
    inputs["examples"] = examples
    # PiSSA and OLoRA train on a residual: with their first adapter it is the base model.
    residual = recipe.lora.residual
    wanted = recipe.grpo.kl_reference
    if recipe.grpo.kl_coefficient and (wanted == "initial" or (wanted == "base" and residual)):
        inputs["reference"] = initial
    return Action("grpo", name, config=config, inputs=inputs)


def answer_format(recipe: Recipe, kind: str) -> str:
    """How answers after a stage of `kind` look: `tags` or `hash`."""
    return "tags" if kind == "grpo" and recipe.grpo.prompt == "tags" else "hash"
