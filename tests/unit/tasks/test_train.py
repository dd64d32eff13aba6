"""What a training stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from lorapar_core.recipe import parse_recipe
from tasks.action import Action, External
from tasks.programs import JUDGED
from tasks.train import train

DIGESTS = {
    role: External(f"{k:064x}")
    for k, role in enumerate(
        ("base", "adapter", "initial", "masks", "labels", "tokens", "examples")
    )
}


def grpo(init: str, **section: Any) -> Action:
    fields = tiny_recipe(Path("/model"))
    fields["lora"] |= {"init": init}
    fields["grpo"] |= section
    recipe = parse_recipe(fields)
    return train(recipe, recipe.stages[1], name="grpo", **DIGESTS)


@pytest.mark.parametrize(
    ("init", "reference", "kl", "reads"),
    [
        ("gaussian", "start", 0.1, False),
        ("gaussian", "base", 0.1, False),  # the adapter switched off
        ("gaussian", "initial", 0.1, True),
        ("gaussian", "initial", 0.0, False),
        ("pissa", "start", 0.1, False),
        ("pissa", "base", 0.1, True),  # the residual with the first adapter is the base
        ("olora", "base", 0.1, True),
        ("pissa", "base", 0.0, False),
    ],
)
def test_the_initial_adapter_is_read_where_it_is_the_kl_reference(
    init: str, reference: str, kl: float, reads: bool
) -> None:
    action = grpo(init, kl_reference=reference, kl_coefficient=kl)
    assert ("reference" in action.inputs) == reads
    if reads:
        assert action.inputs["reference"] == DIGESTS["initial"]
    assert action.inputs["adapter"] == DIGESTS["adapter"]


@pytest.mark.parametrize(
    ("rewards", "same"),
    [({"correctness": 1}, True), ({"code": 1}, False), ({"correctness": 1, "execution": 1}, False)],
)
def test_how_programs_are_judged_is_in_the_key_where_a_reward_runs_them(
    rewards: dict[str, float], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = grpo("gaussian", rewards=rewards).key
    monkeypatch.setattr("tasks.train.JUDGED", {"programs": JUDGED["programs"] + 1})
    assert (grpo("gaussian", rewards=rewards).key == before) is same
