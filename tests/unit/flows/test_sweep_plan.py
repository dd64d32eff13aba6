"""A sweep is planned: what trials share is counted once, votes are bought once, nothing is touched.

That the counts are those of a real sweep is shown in `test_local_sweep`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe, write_tiny_recipe

from artifacts import Store
from flows import needs, sweep_plan
from flows.cli import main
from flows.plan_runner import PlanRunner
from flows.planned_votes import PlannedVotes
from flows.sweep_plan import Left, plan_sweep
from flows.sweeps import SWEEPS, Trial, trials
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError, LoraparError
from lorapar_core.memory import Estimate
from tasks.action import UNKNOWN, Action, External, Input, Outcome

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
EXAMPLES = 24


def planned(
    recipe: Path,
    store: Path,
    sweep: str,
    seeds: tuple[int, ...] = (0,),
    only: Sequence[str] = (),
    **overrides: Any,
) -> dict[str, Any]:
    found = trials(SWEEPS[sweep], str(recipe), seeds=seeds, overrides=overrides, only=only)
    return plan_sweep(found, store=Store.open(store, create=False))


def counts(plan: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    return {s["stage"]: (s["asked"], s["different"], s["compute"]) for s in plan["stages"]}


def rows(folder: Path) -> Path:
    """Examples that a plan can read before anybody has prepared them."""
    lines = [json.dumps({"prompt": f"{k} + 1?", "answer": str(k + 1)}) for k in range(EXAMPLES)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


# What is shared


def test_the_theta_sweep_scores_once_a_seed_and_asks_each_teacher_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    """All nineteen points."""
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    found = counts(planned(recipe, tmp_path / "store", "theta", (0, 1)))
    assert found["prepare"] == (38, 1, 1)
    assert found["vote"] == (76, 2, 2)
    assert found["initialize"] == (38, 2, 2)
    assert found["moments"] == (76, 4, 4)
    assert found["score"] == (76, 4, 4)
    assert found["profile"] == (38, 2, 2)
    assert found["partition"] == found["sft"] == (38, 38, 38)
    assert not (tmp_path / "store").exists()


def action(config: dict[str, Any] | None = None, **inputs: Input) -> Action:
    return Action("score", "score", config=config or {}, inputs=inputs)


def missing(of: Action) -> Outcome:
    return Outcome(of.name, of.stage, of.key, "missing", 0.0, {}, of.expected)


def test_what_stands_for_a_key_tells_inputs_and_configurations_apart() -> None:
    known = action(x=External("0" * 64))
    assert known.expected == known.key
    first, second = action({"a": 1}, x=UNKNOWN), action({"a": 2}, x=UNKNOWN)
    assert first.key is None
    assert first.expected == action({"a": 1}, x=UNKNOWN).expected != second.expected
    after = [action(x=missing(one)["importance"]) for one in (first, second)]
    assert len({one.expected for one in after}) == 2
    roles = [action(x=missing(first)[role]) for role in ("a", "b")]
    assert len({one.expected for one in roles}) == 2


def test_models_that_are_not_here_are_different_ones(tmp_path: Path, tiny_model: Path) -> None:
    teachers = [
        {"name": name, "provider": "local", "model": f"gguf:no-such-{name}"}
        for name in ("one", "two", "three")
    ]
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, teachers=teachers)
    found = counts(planned(recipe, tmp_path / "store", "order"))
    assert found["dequantize"] == (6, 3, 3)


# Votes


def bought(plan: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {p["teacher"]: (p["votes_least"], p["votes"]) for p in plan["purchases"]}


def test_one_ledgers_votes_are_bought_once(tiny_model: Path, tmp_path: Path) -> None:
    """Asked alone and among three it is the same votes; without a part to play other ones."""
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, teachers=TEACHERS)
    plan = planned(recipe, tmp_path / "store", "labels", (0, 1))
    everything = (EXAMPLES, EXAMPLES)
    assert bought(plan) == {
        "gpt-one, no role play": everything,
        **{str(teacher["name"]): everything for teacher in TEACHERS},
    }
    assert plan["votes"] == 4 * EXAMPLES
    assert plan["missing_keys"] == ["NO_SUCH_KEY"]
    assert plan["votes_exact"] is False


def test_of_curtailed_votes_the_union_is_bought(tiny_model: Path, tmp_path: Path) -> None:
    """One trial's first round asks a teacher about other examples than another's."""
    more = [{**TEACHERS[0], "name": name, "model": f"openai/{name}"} for name in ("four", "five")]
    fields: dict[str, Any] = {
        "teachers": [*TEACHERS, *more],
        "voting": {"curtailed": True},
        "data": {**tiny_recipe(tiny_model)["data"], "source": str(rows(tmp_path))},
    }
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, **fields)
    each = [
        bought(planned(recipe, tmp_path / "store", "labels", only=[label]))
        for label in ("3 teachers", "5 teachers")
    ]
    both = bought(planned(recipe, tmp_path / "store", "labels", only=["3 teachers", "5 teachers"]))
    assert set(both) == set(each[1])
    grown = 0
    for name, (least, most) in both.items():
        alone = [one[name] for one in each if name in one]
        assert max(a for a, _ in alone) <= least <= sum(a for a, _ in alone)
        assert max(b for _, b in alone) <= most <= EXAMPLES
        grown += least > max(a for a, _ in alone)
    assert grown, "some teacher is asked about examples that neither trial alone asks it about"


def test_a_cap_is_told(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, teachers=TEACHERS)
    plan = planned(recipe, tmp_path / "store", "labels", runtime={"budget_votes": 10})
    assert plan["budget"]["budget_votes"] == 10


def test_local_votes_are_counted_once_a_ledger(tmp_path: Path, tiny_model: Path) -> None:
    def vote(ids: list[str], ledger: str, units: int) -> tuple[Action, Outcome]:
        one = Action(
            "vote",
            "vote",
            {"target": "t", "teacher": {"name": "first"}, "ids": ids, "asked": ledger},
            site={"ids": ids},
            ledger=ledger,
            place="device",
            units=units,
        )
        return one, missing(one)

    one, two = "1" * 64, "2" * 64
    store = Store.open(tmp_path / "store")
    votes = PlannedVotes(store)
    votes._examples = {}
    recipe = Recipe.model_validate(tiny_recipe(tiny_model))
    for actions in (
        [vote(["a", "b"], one, 2), vote([], two, 7)],
        [vote(["b", "c"], one, 2), vote([], two, 5)],
    ):
        votes.add(recipe, PlanRunner(store, actions=actions))
    assert votes.told(recipe.runtime)["local_votes"] == 3 + 7


# Memory and disk


def test_disk_is_what_all_write_and_the_largest_keep_and_memory_the_largest(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe.model_validate(tiny_recipe(tiny_model))
    store = Store.open(tmp_path / "store")
    sizes = {"a": 100, "b": 300, "c": 200}
    kept = {"a": 1, "b": 7, "c": 5}
    seen: list[list[str]] = []

    def disk(_recipe: object, new: Sequence[Action]) -> needs.Disk:
        names = [str(one.config["name"]) for one in new]
        seen.append(names)
        return needs.Disk(sum(map(sizes.__getitem__, names)), max(map(kept.__getitem__, names)))

    def memory(_recipe: object, new: Sequence[Action], *_: object) -> Estimate:
        names = [str(one.config["name"]) for one in new]
        return Estimate(names[-1], {"all": max(map(sizes.__getitem__, names))})

    monkeypatch.setattr(sweep_plan.needs, "disk", disk)
    monkeypatch.setattr(sweep_plan.needs, "memory", memory)
    monkeypatch.setattr(sweep_plan.needs, "longest", lambda *_: None)
    monkeypatch.setattr(sweep_plan, "tokens_of", lambda *_: None)
    monkeypatch.setattr(sweep_plan, "benchmarks_of", lambda *_: {})
    left = Left()
    for names in (("a",), ("a", "b"), ("c", "c")):
        actions = [action({"name": name}) for name in names]
        runner = PlanRunner(store, actions=[(one, missing(one)) for one in actions])
        left.add(recipe, runner, finished=False)
    assert seen == [["a"], ["b"], ["c"]], "each once"
    found = left.memory()
    assert found
    assert (found.name, found.total) == ("b", 300)
    assert [left.disk(n) for n in (1, 2, 3)] == [600 + 7, 600 + 12, 600 + 13]
    assert left.stages == {"score": {"asked": 5, "different": 3, "cached": 0, "compute": 3}}


def test_what_is_unknown_of_one_is_unknown_of_all(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    before = planned(recipe, tmp_path / "store", "order")
    assert before["memory_gib"] > 0
    assert before["disk_gib"] is not None
    real = iter([None])
    monkeypatch.setattr(
        sweep_plan.needs, "memory", lambda *_: next(real, Estimate("sft", {"all": 2**30}))
    )
    monkeypatch.setattr(sweep_plan.needs, "disk", lambda *_: None)
    after = planned(recipe, tmp_path / "store", "order")
    assert (after["memory_gib"], after["disk_gib"]) == (None, None)


# Trials that can't be carried out


def test_a_trial_that_would_fail_is_named_and_the_others_are_counted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    found = trials(SWEEPS["order"], str(recipe), seeds=(0, 1), overrides={})
    real = sweep_plan.pipeline
    bad: list[Trial] = [found[1]]

    def pipeline(given: Recipe, runner: PlanRunner) -> Any:
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


def test_what_a_sweep_refuses_at_once_its_plan_refuses(tiny_model: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    with pytest.raises(ConfigError, match="nf4"):
        planned(
            recipe,
            tmp_path / "store",
            "baselines",
            only=["lora", "ia3"],
            model={"quantization": "nf4"},
        )


def test_the_command_refuses_to_write_what_it_does_not_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "order", "lab", "--plan", "--markdown", str(tmp_path / "x.md")]) == 2
    assert "--plan writes nothing; leave --markdown out" in capsys.readouterr().err


def test_a_person_sees_a_table_and_a_program_an_object(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    words = ["sweep", "order", str(recipe), "--plan", "--store", str(tmp_path / "store")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "6 trials, 0 of them finished\n" in shown
    assert "asked for  different  cached  to compute, at most" in shown
    assert ", for each of 2 processes side by side\n" in shown
    assert "\ndisk: 0.0 GiB" in shown
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 6
    assert not (tmp_path / "store").exists()
