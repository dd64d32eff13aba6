"""A sweep is planned: what trials share is counted once, votes are bought once, nothing is touched.

That the counts are those of a real sweep is shown in `test_local_sweep`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe, write_tiny_recipe

from artifacts import Store
from flows.cli import main
from flows.sweep_plan import plan_sweep
from flows.sweeps import SWEEPS, Trial, trials
from lorapar_core.errors import LoraparError

TEACHERS = [
    {
        "name": name,
        "provider": "litellm",
        "model": f"openai/{name}",
        "api_base": "http://127.0.0.1:9/v1",
        "api_key_env": "NO_SUCH_KEY",
        "input_usd": 1.0,
        "output_usd": 2.0,
    }
    for name in ("gpt-one", "gpt-two", "gpt-three")
]


def planned(recipe: Path, store: Path, sweep: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    found = trials(SWEEPS[sweep], str(recipe), seeds=seeds, overrides={})
    return plan_sweep(found, store=Store.open(store, create=False))


def counts(plan: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {s["stage"]: (s["asked"], s["different"], s["compute"]) for s in plan["stages"]}


def test_what_trials_share_is_counted_once(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    found = counts(planned(recipe, tmp_path / "store", "theta", (0, 1)))
    (one, *_) = trials(SWEEPS["theta"], str(recipe), seeds=(0,), overrides={})
    points = len(SWEEPS["theta"].points(one.recipe))
    assert found["prepare"] == (2 * points, 1, 1)
    assert found["initialize"] == (2 * points, 2, 2)
    assert found["sft"] == (2 * points, 2 * points, 2 * points)
    assert not (tmp_path / "store").exists()


def test_one_ledgers_votes_are_bought_once(tiny_model: Path, tmp_path: Path) -> None:
    """Asked alone, among three, and curtailed: the same teacher's same votes. Without a part it is
    asked something else."""
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, teachers=TEACHERS)
    plan = planned(recipe, tmp_path / "store", "labels", (0, 1))
    names = [one["teacher"] for one in plan["purchases"]]
    assert sorted(set(names)) == sorted(t["name"] for t in TEACHERS)
    fields = tiny_recipe(tiny_model)
    assert {one["votes"] for one in plan["purchases"]} == {fields["data"]["examples"]}
    asked_without_a_part = len(names) - len(set(names))
    assert 1 <= asked_without_a_part <= len(TEACHERS)
    assert plan["votes"] == len(names) * fields["data"]["examples"]
    assert plan["missing_keys"] == ["NO_SUCH_KEY"]


def test_a_trial_that_would_fail_is_named_and_the_others_are_counted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import sweep_plan

    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    found = trials(SWEEPS["order"], str(recipe), seeds=(0, 1), overrides={})
    real = sweep_plan.pipeline
    bad: list[Trial] = [found[1]]

    def pipeline(given: Any, runner: Any) -> Any:
        if any(given == trial.recipe for trial in bad):
            raise LoraparError("System 1 has too few examples")
        return real(given, runner)

    monkeypatch.setattr(sweep_plan, "pipeline", pipeline)
    store = Store.open(tmp_path / "store", create=False)
    plan = plan_sweep(found, store=store)
    assert plan["refused"] == [{"trial": found[1].name, "error": "System 1 has too few examples"}]
    assert counts(plan)["prepare"][0] == len(found) - 1
    bad += found
    with pytest.raises(LoraparError, match="too few"):
        plan_sweep(found, store=store)


def test_a_person_sees_a_table_and_a_program_an_object(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    words = ["sweep", "order", str(recipe), "--plan", "--store", str(tmp_path / "store")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "6 trials, 0 of them finished\n" in shown
    assert "asked for  different  cached  to compute" in shown
    assert "2 processes side by side" in shown
    assert "\ndisk: 0.0 GiB\n" in shown
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 6
    assert not (tmp_path / "store").exists()
