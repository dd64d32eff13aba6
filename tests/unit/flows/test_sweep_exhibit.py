"""Which trial's regions and labels stand on a sweep's page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipe import write_tiny_recipe

from artifacts import Ref, Store
from flows.gathering import gathered
from flows.pipeline import Result
from flows.sweep_exhibit import exhibit
from flows.sweeps import SWEEPS, Trial, trials
from tasks.action import UNKNOWN, Outcome

REF = Ref("0" * 64, 1, "file")
PROFILED = {
    "tally": "agreement.json",
    "profile": "profile.json",
    "partition": "regions.json",
}


def result(outputs: dict[str, str]) -> Result:
    outcomes = tuple(
        Outcome(stage, stage, "0" * 64, "cached", 0.0, {role: REF})
        for stage, role in outputs.items()
    )
    return Result(outcomes, REF, UNKNOWN, {}, {})


def made(name: str, recipe: str = "gsm8k-llama2-7b", only: tuple[str, ...] = ()) -> list[Trial]:
    return trials(SWEEPS[name], recipe, seeds=(0, 1), overrides={}, only=only)


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("theta", "theta 0.9"),
        ("shared", "alpha 1, beta 1"),
        ("modules", "QKVGUD"),
        ("labels", "5 teachers"),
        ("order", "SFT then RL"),
        ("baselines", "lora-par"),
    ],
)
def test_each_sweep_shows_the_point_that_says_most(name: str, point: str) -> None:
    found = {trial: result(PROFILED) for trial in made(name)}
    shown = exhibit(SWEEPS[name], found)
    assert shown
    assert (shown.trial.point.label, shown.trial.seed) == (point, 0)
    assert set(shown.inputs) == {"agreement", "profile", "regions"}


def test_a_control_is_shown_only_where_nothing_else_has_regions() -> None:
    """Its name says `random`, its recipe's method, and not its partition's choice."""
    random, pissa = made("baselines", only=("random", "pissa"))[::2]
    assert {random.point.label, pissa.point.label} == {"random", "pissa"}
    random, pissa = sorted((random, pissa), key=lambda trial: trial.point.label == "pissa")
    shown = exhibit(SWEEPS["baselines"], {random: result(PROFILED), pissa: result({})})
    assert shown
    assert shown.trial is random
    other = replace(pissa)
    shown = exhibit(SWEEPS["baselines"], {random: result(PROFILED), other: result(PROFILED)})
    assert shown
    assert shown.trial is other


def test_with_labels_alone_these_are_shown_and_without_nothing_is() -> None:
    first, second = made("labels", only=("one teacher",))
    found = {first: result({}), second: result({"tally": "agreement.json"})}
    shown = exhibit(SWEEPS["labels"], found)
    assert shown
    assert shown.trial is second
    assert exhibit(SWEEPS["labels"], {first: result({})}) is None


def test_what_is_told_of_a_control_says_that_it_is_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model)
    (trial,) = trials(SWEEPS["baselines"], str(recipe), seeds=(0,), overrides={}, only=("random",))
    monkeypatch.setattr("flows.gathering._evaluated", lambda *_: result(PROFILED))
    told = gathered(SWEEPS["baselines"], [trial], Store.open(tmp_path / "store")).action.config
    assert told["exhibit"]["trial"] == "random, seed 0"
    assert told["exhibit"]["recipe"]["partition"]["choice"] == "random"
