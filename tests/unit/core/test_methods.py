"""A method is plain values: which, what stays as it was, and what can't be trained."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from tiny_recipe import tiny_recipe

from lorapar_core.config import Method, Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.methods import BASELINES, LEARNING_RATES, expanded, require_sound
from lorapar_core.recipe import merge, parse_recipe

METHODS = get_args(Method)
STAGES = [
    {"kind": "sft", "system": 1, "epochs": 2.0},
    {"kind": "grpo", "system": 2, "epochs": 0.5},
    {"kind": "sft", "system": "all", "data": "all"},
]
SFT_ONLY = [("sft", "full", 1, 2.0), ("sft", "full", "all", 1.0)]
ALL = [SFT_ONLY[0], ("grpo", "full", 2, 0.5), SFT_ONLY[1]]


def recipe(**sections: Any) -> Recipe:
    return parse_recipe(merge(tiny_recipe("/model"), {"stages": STAGES, **sections}))


def stages(of: Recipe) -> list[tuple[Any, ...]]:
    return [(stage.kind, stage.system, stage.data, stage.epochs) for stage in of.stages]


@pytest.mark.parametrize(
    ("method", "init", "kind", "expected"),
    [
        ("lora", "default", "lora", SFT_ONLY),
        ("olora", "olora", "lora", SFT_ONLY),
        ("pissa", "pissa", "lora", SFT_ONLY),
        ("lora+rl", "default", "lora", ALL),
        ("pissa+rl", "pissa", "lora", ALL),
        ("prompt-tuning", "default", "prompt-tuning", SFT_ONLY),
        ("p-tuning", "default", "p-tuning", SFT_ONLY),
        ("prefix-tuning", "default", "prefix-tuning", SFT_ONLY),
        ("ia3", "default", "ia3", SFT_ONLY),
    ],
)
def test_a_baseline_keeps_data_epochs_and_order(
    method: str, init: str, kind: str, expected: list[tuple[Any, ...]]
) -> None:
    made = expanded(recipe(method=method))
    assert (made.lora.init, made.peft.kind) == (init, kind)
    assert stages(made) == expected
    require_sound(made)
    assert not made.needs_masks
    assert made.needs_labels, "some of the stages train on a system's examples"


def test_every_method_is_told() -> None:
    assert set(METHODS) == {*BASELINES, "lora-par", "random"}


def test_lora_par_is_the_recipe_itself() -> None:
    given = recipe()
    assert expanded(given) is given


def test_random_changes_the_choice_alone() -> None:
    given = recipe(method="random", partition={"theta": 0.7})
    made = expanded(given)
    assert made.partition == given.partition.model_copy(update={"choice": "random"})
    assert made.model_copy(update={"partition": given.partition}) == given


@pytest.mark.parametrize("method", METHODS)
def test_expanding_twice_changes_nothing_and_gives_a_recipe_that_may_be_written(
    method: str,
) -> None:
    made = expanded(recipe(method=method))
    assert expanded(made) == made
    assert parse_recipe(made.model_dump(mode="json")) == made


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_part_of_the_method_stays(method: str) -> None:
    given = recipe(method=method, lora={"r": 3, "seed": 9}, sft={"batch_size": 3, "seed": 5})
    made = expanded(given)
    for name in ("data", "teachers", "voting", "model", "importance", "grpo", "evaluation"):
        assert getattr(made, name) == getattr(given, name)
    assert made.sft.model_copy(update={"learning_rate": given.sft.learning_rate}) == given.sft
    assert made.lora.model_copy(update={"init": given.lora.init}) == given.lora


@pytest.mark.parametrize("method", METHODS)
def test_only_other_adapters_have_a_rate_of_their_own(method: str) -> None:
    usual = expanded(recipe(method=method)).sft.learning_rate
    assert usual == LEARNING_RATES.get(method, 2e-4)  # type: ignore[call-overload]
    asked = expanded(recipe(method=method, peft={"learning_rate": 0.5})).sft.learning_rate
    assert asked == (0.5 if method in LEARNING_RATES else 2e-4)


def test_a_baseline_without_rl_needs_an_sft_stage() -> None:
    only_rl = [{"kind": "grpo", "system": 2}]
    with pytest.raises(ConfigError, match="method lora keeps the SFT stages, and the recipe has"):
        expanded(recipe(method="lora", stages=only_rl))
    assert stages(expanded(recipe(method="lora+rl", stages=only_rl))) == [("grpo", "full", 2, 1.0)]


FULL = [{"kind": "sft", "system": "full", "data": "all"}]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"lora": {"init": "default"}}, "every importance would be 0; use gaussian"),
        ({"peft": {"kind": "ia3"}}, "only LoRA's elements are scored and chosen"),
        (
            {
                "peft": {"kind": "ia3"},
                "stages": [*FULL, {"kind": "grpo", "system": "full", "data": 2}],
            },
            "trains by SFT only; leave the grpo stages out",
        ),
        ({"method": "ia3", "model": {"quantization": "nf4"}}, "use quantization: none"),
        (
            {"method": "p-tuning", "runtime": {"sharding": "fsdp", "processes": 2}},
            "use sharding: none",
        ),
        (
            {
                "peft": {"kind": "prefix-tuning"},
                "stages": FULL,
                "sft": {"activation_checkpointing": True},
            },
            "sft.activation_checkpointing does without; set it to false",
        ),
    ],
)
def test_what_cant_be_trained_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        require_sound(expanded(recipe(**sections)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "sections",
    [
        {"method": "prompt-tuning", "sft": {"activation_checkpointing": True}},
        {"method": "lora", "model": {"quantization": "nf4"}},
        {"method": "lora", "runtime": {"sharding": "fsdp", "processes": 2}},
        {"lora": {"init": "default"}, "stages": FULL},
    ],
)
def test_what_can_is_not(sections: dict[str, Any]) -> None:
    require_sound(expanded(recipe(**sections)))


def test_a_stage_of_every_element_names_its_examples() -> None:
    with pytest.raises(ConfigError, match="names no examples; give data: all, 1 or 2"):
        recipe(stages=[{"kind": "sft", "system": "full"}])


@pytest.mark.parametrize(
    ("given", "masks", "labels"),
    [
        ([], False, False),
        (FULL, False, False),
        ([{"kind": "sft", "system": "full", "data": 2}], False, True),
        ([*FULL, {"kind": "sft", "system": "all", "data": "all"}], True, True),
    ],
)
def test_what_a_recipe_needs(given: list[dict[str, Any]], masks: bool, labels: bool) -> None:
    found = recipe(stages=given)
    assert (found.needs_masks, found.needs_labels) == (masks, labels)
