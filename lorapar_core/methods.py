"""A baseline is plain values of a recipe's other sections: the same data, steps and evaluation.

    method                      adapter and init     stages kept      elements that train
    lora, olora, pissa          LoRA, by its init    SFT              all
    lora+rl, pissa+rl           the same             all              all
    random                      as the recipe's      all              as many, at random places
    prompt-tuning … ia3         PEFT's kind          SFT              all

A stage keeps its examples, epochs and place in the order; only its mask goes. Keys depend on the
plain values, so whatever a baseline has in common with LoRA-PAR, or with another, is computed once:
votes and labels always, importances with `random`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lorapar_core.config import AdapterKind, Method, Recipe, StageConfig
from lorapar_core.errors import ConfigError

LEARNING_RATES: Mapping[AdapterKind, float] = {
    "prompt-tuning": 3e-2,
    "p-tuning": 3e-2,
    "prefix-tuning": 3e-2,
    "ia3": 8e-3,
}
"""What PEFT's guides train each kind with. (At 2e-4, the paper's for LoRA, so few numbers as these
hardly move in an epoch, and a baseline that doesn't learn says nothing.)"""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What trains whole in LoRA-PAR's place."""

    init: Literal["default", "olora", "pissa"] = "default"
    kind: AdapterKind = "lora"
    rl: bool = False
    """Whether the stages that aren't SFT stay."""


BASELINES: Mapping[Method, Baseline] = {
    "lora": Baseline(),
    "olora": Baseline("olora"),
    "pissa": Baseline("pissa"),
    "lora+rl": Baseline(rl=True),
    "pissa+rl": Baseline("pissa", rl=True),
    "prompt-tuning": Baseline(kind="prompt-tuning"),
    "p-tuning": Baseline(kind="p-tuning"),
    "prefix-tuning": Baseline(kind="prefix-tuning"),
    "ia3": Baseline(kind="ia3"),
}


def expanded(recipe: Recipe) -> Recipe:
    """The recipe with its method's plain values; `method` stays, as a name. Expanding twice changes
    nothing.

    Raises:
        ConfigError: the method keeps SFT stages, and there is none.
    """
    baseline = BASELINES.get(recipe.method)
    if baseline is None:
        random = recipe.method == "random"
        return _with(recipe, partition={"choice": "random"}) if random else recipe
    stages = [_full(stage) for stage in recipe.stages if baseline.rl or stage.kind == "sft"]
    if not stages:
        raise ConfigError(
            f"method {recipe.method} keeps the SFT stages, and the recipe has none; give it one, "
            "such as stages: [{kind: sft, system: 1}]"
        )
    made = _with(recipe, lora={"init": baseline.init}, peft={"kind": baseline.kind})
    if baseline.kind != "lora":
        rate = recipe.peft.learning_rate or LEARNING_RATES[baseline.kind]
        made = _with(made, sft={"learning_rate": rate})
    if baseline.kind == "prefix-tuning":  # it can't, and it changes no result
        made = _with(made, sft={"activation_checkpointing": False})
    return made.model_copy(update={"stages": stages})


def _with(recipe: Recipe, **sections: Mapping[str, Any]) -> Recipe:
    """The recipe with fields of its sections changed to values that they may have."""
    changed = {
        name: getattr(recipe, name).model_copy(update=dict(fields))
        for name, fields in sections.items()
    }
    return recipe.model_copy(update=changed)


def _full(stage: StageConfig) -> StageConfig:
    """The stage with every element, on the examples that it had."""
    if stage.system == "full":
        return stage
    named = {"system": stage.system, "all": "all"}.get(str(stage.data), stage.data)
    return stage.model_copy(update={"system": "full", "data": named})


def require_sound(recipe: Recipe) -> None:
    """Refuse an expanded recipe whose adapter can't be trained as its stages say.

    Raises:
        ConfigError: as said.
    """
    kind = recipe.peft.kind
    if kind == "lora":
        if recipe.lora.init == "default" and recipe.needs_masks:
            raise ConfigError(
                "lora.init is default, which has B = 0, so that every importance would be 0; use "
                "gaussian, pissa or olora, or stages with system: full (method: lora)"
            )
        return
    if recipe.needs_masks:
        raise ConfigError(
            f"peft.kind is {kind}, and only LoRA's elements are scored and chosen; use "
            f"method: {kind}, or stages with system: full"
        )
    if any(stage.kind != "sft" for stage in recipe.stages):
        raise ConfigError(
            f"peft.kind is {kind}, which trains by SFT only; leave the grpo stages out "
            f"(method: {kind} does)"
        )
    if recipe.model.quantization != "none":
        raise ConfigError(
            f"peft.kind is {kind}, and model.quantization {recipe.model.quantization} goes with "
            "LoRA only; use quantization: none"
        )
    if recipe.runtime.sharding != "none":
        raise ConfigError(
            f"peft.kind is {kind}, and runtime.sharding {recipe.runtime.sharding} goes with LoRA "
            "only; use sharding: none"
        )
    if kind == "prefix-tuning" and recipe.sft.activation_checkpointing:
        raise ConfigError(
            "peft.kind is prefix-tuning, whose prefix stands in the cache that "
            "sft.activation_checkpointing does without; set it to false"
        )
