"""What a method's pipeline is made of, and what it has in common with LoRA-PAR's."""

from __future__ import annotations

import hashlib
from collections import UserDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import STAGES, tiny_recipe

from artifacts import Store
from flows.pipeline import pipeline
from flows.plan import plan
from flows.requirements import check, missing_keys, models
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.methods import expanded
from lorapar_core.recipe import merge, parse_recipe
from tasks.action import Action, External, Outcome

TRAINED = ("sft", "evaluate[sft]", "grpo", "evaluate[grpo]")
LABELLED = ("prepare", "vote[first]", "vote[second]", "initialize", "tally")


class Outputs(UserDict[str, Any]):
    """Every role that is asked for, named by its action's key."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, role: str) -> External:
        return External(hashlib.sha256(f"{self._key}/{role}".encode()).hexdigest())


@dataclass
class Imagined:
    """Says that every action is done, so that all keys are known. Votes are named by their teacher,
    for whom they are asked isn't known."""

    store: Store
    downloads: bool = False
    actions: dict[str, Action] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def submit(self, action: Action) -> Any:
        key = action.key or f"{action.name}: {dict(action.config)}"
        self.actions[action.name], self.keys[action.name] = action, key
        outcome = Outcome(action.name, action.stage, key, "computed", 0.0, Outputs(key))  # type: ignore[arg-type]
        return Done(outcome)


@dataclass(frozen=True)
class Done:
    outcome: Outcome

    def result(self) -> Outcome:
        return self.outcome


@pytest.fixture
def composed(tiny_model: Path, tmp_path: Path) -> Any:
    def compose(**sections: Any) -> Imagined:
        runner = Imagined(Store.open(str(tmp_path / "store"), create=False))
        pipeline(recipe(tiny_model, **sections), runner)
        return runner

    return compose


def recipe(model: Path, **sections: Any) -> Recipe:
    return parse_recipe(merge(tiny_recipe(model), sections))


def common(one: Imagined, other: Imagined) -> set[str]:
    return {name for name, key in one.keys.items() if other.keys.get(name) == key}


def test_random_shares_all_but_the_partition_and_what_follows(composed: Any) -> None:
    usual, random = composed(), composed(method="random")
    assert tuple(random.keys) == tuple(usual.keys) == STAGES
    assert set(STAGES) - common(usual, random) == {"partition", *TRAINED, "report"}


def test_a_recipe_without_a_method_is_lora_par(composed: Any) -> None:
    assert composed().keys == composed(method="lora-par").keys


@pytest.mark.parametrize("method", ["lora", "olora", "pissa", "ia3", "p-tuning"])
def test_a_baseline_shares_labels_and_scores_nothing(composed: Any, method: str) -> None:
    usual, baseline = composed(), composed(method=method)
    assert tuple(baseline.keys) == (*LABELLED, "evaluate[base]", "sft", "evaluate[sft]", "report")
    shared = {*LABELLED, "evaluate[base]"} - {"initialize"}
    assert common(usual, baseline) == shared
    sft = baseline.actions["sft"]
    assert set(sft.inputs) == {"base", "adapter", "tokens", "labels"}
    assert (sft.config["system"], sft.config["data"]) == ("full", 1)


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_rl_goes_on_from_the_same_sft(composed: Any, method: str) -> None:
    alone, followed = composed(method=method), composed(method=f"{method}+rl")
    assert set(followed.keys) - set(alone.keys) == {"grpo", "evaluate[grpo]"}
    assert set(alone.keys) - common(alone, followed) == {"report"}


def test_a_baseline_on_all_examples_asks_nobody(
    composed: Any, tiny_model: Path, tmp_path: Path
) -> None:
    fields = {"method": "ia3", "stages": [{"kind": "sft", "system": 1, "data": "all"}]}
    found = composed(**fields)
    expected = ("prepare", "initialize", "evaluate[base]", "sft", "evaluate[sft]", "report")
    assert tuple(found.keys) == expected
    assert set(found.actions["sft"].inputs) == {"base", "adapter", "tokens"}
    assert not {"agreement", "regions"} & set(found.actions["report"].inputs)

    planned = plan(recipe(tiny_model, **fields), store=Store.open(tmp_path / "s", create=False))
    assert (planned["votes"], planned["local_votes"], planned["purchases"]) == (0, 0, [])
    assert planned["memory_gib"] > 0
    assert [stage["name"] for stage in planned["stages"]] == list(expected)


def test_teachers_that_nobody_asks_need_no_key_price_or_model(tiny_model: Path) -> None:
    teachers = [
        {"name": "far", "model": "openai/no-such-model-of-ours", "api_key_env": "A_KEY_OF_OURS"},
        {"name": "near", "provider": "local", "model": str(tiny_model / "absent")},
    ]
    fields = {"method": "lora", "teachers": teachers, "runtime": {"budget_usd": 1}}
    on_all = [{"kind": "sft", "system": "all", "data": "all"}]
    alone = expanded(recipe(tiny_model, **fields, stages=on_all))
    check(alone)
    assert missing_keys(alone, environment={}) == {}
    assert models(alone) == [(str(tiny_model), "")]
    asking = expanded(recipe(tiny_model, **fields))
    assert missing_keys(asking, environment={}) == {"far": "A_KEY_OF_OURS"}
    with pytest.raises(ConfigError, match="the price of teacher 'far'"):
        check(asking)


def test_too_few_examples_for_the_importance_are_enough_where_nothing_is_scored(
    composed: Any,
) -> None:
    composed(method="lora", importance={"examples": 1000})


def test_other_adapters_read_nothing_of_loras(composed: Any) -> None:
    """Its dropout, rank and modules are in no key."""
    one = composed(method="p-tuning")
    other = composed(method="p-tuning", lora={"r": 5, "dropout": 0.4, "modules": "QKV"})
    assert set(one.keys) - common(one, other) == {"report"}
    seeded = composed(method="p-tuning", lora={"seed": 3})
    assert "initialize" not in common(one, seeded)


@pytest.mark.parametrize(
    ("kind", "field", "read"),
    [
        ("prompt-tuning", "virtual_tokens", True),
        ("prompt-tuning", "encoder_hidden_size", False),
        ("p-tuning", "encoder_hidden_size", True),
        ("prefix-tuning", "encoder_hidden_size", False),
        ("ia3", "virtual_tokens", False),
        ("lora", "virtual_tokens", False),
    ],
)
def test_a_kinds_key_holds_what_it_reads(composed: Any, kind: str, field: str, read: bool) -> None:
    one, other = composed(method=kind), composed(method=kind, peft={field: 7})
    assert ("initialize" not in common(one, other)) == read


def test_only_a_residual_is_trained_on(composed: Any) -> None:
    bases = {
        method: composed(method=method).actions["sft"].inputs["base"]
        for method in ("lora", "ia3", "pissa", "olora")
    }
    assert bases["lora"] == bases["ia3"]
    assert len(set(bases.values())) == 3


def test_the_report_names_the_method(composed: Any) -> None:
    assert composed(method="ia3").actions["report"].config["recipe"]["method"] == "ia3"
    assert composed().actions["report"].config["recipe"]["method"] == "lora-par"


def test_check_refuses_before_any_work(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="every importance would be 0"):
        check(recipe(tiny_model, lora={"init": "default"}))
    checkpointed = {"sft": {"activation_checkpointing": True}}
    full = [{"kind": "sft", "system": "full", "data": "all"}]
    with pytest.raises(ConfigError, match="activation_checkpointing does without"):
        check(
            recipe(tiny_model, peft={"kind": "prefix-tuning"}, stages=full, **checkpointed),
            runs=False,
        )
    check(recipe(tiny_model, method="prefix-tuning", **checkpointed), runs=False)
