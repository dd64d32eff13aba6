"""The paper's figures stand beside ours only where the setting is the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorapar_core.config import Recipe
from lorapar_core.paper_figures import ACTIVE_BY_THETA, OVERLAP, paper_accuracy
from lorapar_core.recipe import load_recipe, merge

LLAMA, QWEN = "meta-llama/Llama-2-7b-hf", "Qwen/Qwen2.5-7B"
RECIPES = Path(__file__).parents[3] / "deployments" / "recipes"
TEACHERS = [{"name": name, "provider": "local"} for name in ("one", "two", "three")]
FIVE = [{"name": name, "provider": "local"} for name in "abcde"]
SFT = {"stages": [{"kind": "sft", "system": 1}]}


def figure(after: str, *, model: str = LLAMA, **sections: Any) -> tuple[float, str] | None:
    fields = merge({"teachers": TEACHERS, "lora": {"init": "gaussian"}}, sections)
    recipe = Recipe.model_validate(fields).model_dump(mode="json")
    found = paper_accuracy(recipe, model, after)
    return (round(100 * found.value, 4), found.source) if found else None


@pytest.mark.parametrize(
    ("sections", "after", "expected"),
    [
        ({}, "base", (13.3, "Table 4")),
        ({}, "sft", (27.07, "Table 4")),
        ({}, "grpo", (34.57, "Table 4")),
        ({"lora": {"init": "pissa"}}, "grpo", (38.97, "Table 4")),
        ({"lora": {"init": "pissa"}, "partition": {"theta": 0.95}}, "sft", (30.86, "Table 4")),
        ({"partition": {"alpha": 0.5, "beta": 0.0}}, "grpo", (25.85, "Table 2")),
        ({"partition": {"theta": 0.5}}, "sft", (13.12, "Table 3")),
        ({"lora": {"modules": "QKV"}}, "sft", (23.35, "Table 3")),
        ({"stages": [{"kind": "sft", "system": 1}]}, "sft", (27.07, "Table 4")),
        ({"teachers": FIVE, **SFT}, "sft", (27.6, "Table 1")),
        ({"teachers": FIVE, **SFT, "partition": {"theta": 0.5}}, "sft", (13.12, "Table 3")),
        ({"teachers": FIVE}, "grpo", (34.57, "Table 4")),
        ({"voting": {"panel": ["one"]}}, "sft", None),
        ({"voting": {"role_play": False}}, "sft", None),
        ({"voting": {"labels": "random"}}, "sft", None),
        # What the paper doesn't tell, or tells of another setting.
        ({"partition": {"theta": 0.5}}, "grpo", None),
        ({"partition": {"theta": 0.55}}, "sft", None),
        ({"partition": {"choice": "random"}}, "sft", None),
        ({"lora": {"init": "olora"}}, "sft", None),
        ({"lora": {"r": 16}}, "sft", None),
        ({"lora": {"modules": ["q_proj"]}}, "sft", None),
        ({"data": {"source": "svamp"}}, "base", None),
        ({"data": {"examples": 500}}, "sft", None),
        ({"sft": {"max_steps": 3}}, "sft", None),
        ({"stages": [{"kind": "sft", "system": 1, "epochs": 2}]}, "sft", None),
        ({"stages": [{"kind": "grpo", "system": 2}, {"kind": "sft", "system": 1}]}, "sft", None),
        ({"stages": [{"kind": "sft", "system": "all"}]}, "sft", None),
    ],
    ids=str,
)
def test_which_figure(
    sections: dict[str, Any], after: str, expected: tuple[float, str] | None
) -> None:
    assert figure(after, **sections) == expected


def test_another_model_has_no_figure_or_its_own() -> None:
    assert figure("base", model=QWEN) == (21.91, "Table 5")
    assert figure("grpo", model=QWEN) == (81.65, "Table 5")
    assert figure("sft", model=QWEN, partition={"theta": 0.8}) is None
    for other in ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-13b-hf", "demo.gguf", ""):
        assert figure("base", model=other) is None
    assert figure("base", model=f"{LLAMA}@main") == (13.3, "Table 4")


@pytest.mark.parametrize("name", ["gsm8k-llama2-7b", "gsm8k-qwen2.5-7b"])
def test_the_shipped_recipes_of_the_paper_have_one(name: str) -> None:
    recipe = load_recipe(name, recipes=RECIPES).model_dump(mode="json")
    assert paper_accuracy(recipe, recipe["model"]["base"], "grpo")


def test_shares_grow_with_theta_and_end_at_all() -> None:
    for shares in ACTIVE_BY_THETA.values():
        assert list(shares) == sorted(shares)
        assert list(shares.values()) == sorted(shares.values())
        assert shares[1.0] == 1.0


def test_the_overlaps_agree_with_each_other() -> None:
    """The three figures of a set of data have two degrees of freedom."""
    for one, two, jaccard in OVERLAP.values():
        shared = 1 / (1 + one / (1 - one) + two / (1 - two))
        assert shared == pytest.approx(jaccard, abs=0.002)
