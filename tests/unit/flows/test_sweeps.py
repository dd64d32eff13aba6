"""What each sweep is made of: its points, its trials, the paper's claims about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tiny_recipe import tiny_recipe

from flows.gathering import distinct
from flows.places import RECIPES
from flows.sweeps import METHODS, SEEDED, SWEEPS, Sweep, Trial, sweep_named, trials
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import load_recipe

NAMES = list(SWEEPS)


def made(name: str, recipe: str = "gsm8k-llama2-7b", **overrides: Any) -> list[Trial]:
    return trials(SWEEPS[name], recipe, seeds=(0, 1, 2), overrides=overrides)


def labels(name: str) -> list[str]:
    points = SWEEPS[name].points(load_recipe("gsm8k-llama2-7b", recipes=RECIPES))
    return [point.label for point in points]


@pytest.mark.parametrize(
    ("name", "points"),
    [("theta", 19), ("shared", 9), ("modules", 3), ("labels", 6), ("order", 2), ("baselines", 11)],
)
def test_a_sweep_has_the_papers_points(name: str, points: int) -> None:
    found = labels(name)
    assert len(found) == len(set(found)) == points
    assert not any("/" in label for label in found), "labels name inputs"


@pytest.mark.parametrize("name", NAMES)
def test_every_point_is_trained_with_every_seed(name: str) -> None:
    found = made(name)
    assert len({trial.name for trial in found}) == len(found) == 3 * len(labels(name))
    assert [trial.seed for trial in found[:3]] == [0, 1, 2], "neighbours don't share a seed"
    for trial in found:
        assert {getattr(trial.recipe, section).seed for section in SEEDED} == {trial.seed}


@pytest.mark.parametrize("name", NAMES)
def test_data_teachers_and_evaluation_stay(name: str) -> None:
    recipe = load_recipe("gsm8k-llama2-7b", recipes=RECIPES)
    for trial in made(name):
        for section in ("data", "teachers", "model", "evaluation", "runtime"):
            assert getattr(trial.recipe, section) == getattr(recipe, section)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_claim_weighs_points_that_are_there_against_each_other(name: str) -> None:
    recipe = load_recipe("gsm8k-llama2-7b", recipes=RECIPES)
    points = SWEEPS[name].points(recipe)
    claims = SWEEPS[name].claims(points)
    assert claims
    assert len({claim.text for claim in claims}) == len(claims)
    for claim in claims:
        assert abs(sum(term.weight for term in claim.terms)) < 1e-9
        assert {term.label for term in claim.terms} <= {point.label for point in points}
        assert any(term.weight > 0 for term in claim.terms)


def test_theta_is_swept_by_sft_with_controls_of_the_same_size() -> None:
    found = made("theta")
    assert {stage.kind for trial in found for stage in trial.recipe.stages} == {"sft"}
    settings = {(t.recipe.partition.theta, t.recipe.partition.choice) for t in found}
    assert {theta for theta, choice in settings if choice == "importance"} == {
        k / 10 for k in range(1, 11)
    }
    assert (1.0, "random") not in settings
    assert len(settings) == 19


def test_the_slope_of_a_line_is_its_slope() -> None:
    points = SWEEPS["theta"].points(load_recipe("demo", recipes=RECIPES))
    slope = SWEEPS["theta"].claims(points)[0]
    thetas = {point.label: point.values["theta"] for point in points}
    assert sum(t.weight * (3 * thetas[t.label] + 1) for t in slope.terms) == pytest.approx(3)


def test_the_labels_are_the_papers_strategies() -> None:
    by_label = {trial.point.label: trial.recipe.voting for trial in made("labels")}
    alone = by_label["one teacher, no role play"]
    assert (len(alone.panel), alone.role_play, alone.labels) == (1, False, "votes")
    assert by_label["one teacher"].role_play
    assert [len(by_label[f"{n} teachers"].panel) for n in (3, 5)] == [3, 5]
    random = by_label["random partition"]
    assert (random.panel, random.labels) == (by_label["5 teachers"].panel, "random")
    texts = [claim.text for claim in SWEEPS["labels"].claims([t.point for t in made("labels")])]
    assert texts == [
        "5 teachers above 3 teachers",
        "3 teachers above one teacher",
        "one teacher above random partition",
        "5 teachers above random partition",
        "one teacher above one teacher, no role play",
    ]


def test_three_teachers_make_a_smaller_sweep_of_labels() -> None:
    found = made("labels", "demo")
    assert {len(t.recipe.voting.panel) for t in found} == {1, 3}


def test_the_order_is_turned_round_and_nothing_else() -> None:
    first, _, _, second, *_ = (trial.recipe.stages for trial in made("order", "demo"))
    assert first == second[::-1]
    assert [stage.kind for stage in first] == ["sft", "grpo"]


def test_the_methods_are_those_of_the_recipe() -> None:
    assert set(METHODS) == set(get_args(Recipe.model_fields["method"].annotation))
    for trial in made("baselines"):
        assert trial.recipe.method == trial.point.label


# Overrides


def test_a_point_lies_over_the_users_fields_and_these_over_the_recipes() -> None:
    found = made("theta", partition={"alpha": 0.5}, sft={"max_steps": 3})
    for trial in found:
        assert (trial.recipe.partition.alpha, trial.recipe.sft.max_steps) == (0.5, 3)
        assert trial.recipe.partition.theta == trial.point.values["theta"]
        assert trial.sections["partition"]["alpha"] == 0.5
        assert trial.sections["sft"] == {"max_steps": 3, "seed": trial.seed}


def test_a_trials_sections_alone_make_its_recipe(tmp_path: Path, tiny_model: Path) -> None:
    """They are what a flow run of its own is given."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(tiny_model)))
    for trial in trials(SWEEPS["shared"], path, seeds=(4,), overrides={"lora": {"r": 3}}):
        again = load_recipe(path, recipes=RECIPES, overrides=trial.sections)
        assert again == trial.recipe


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("theta", {"partition": {"theta": 0.5}}, "partition.theta is set, and the sweep theta"),
        ("shared", {"lora": {"seed": 3}}, "lora.seed is set, .*; use --seeds"),
        ("labels", {"voting": {"panel": ["a"]}}, "voting.panel names"),
        ("labels", {"voting": {"role_play": False}}, "voting.role_play is set"),
        ("theta", {"stages": [{"kind": "grpo", "system": 2}]}, "stages has no sft"),
        ("order", {"stages": [{"kind": "sft", "system": 1}]}, "needs both sft and grpo"),
        ("theta", {"sft": {"max_steps": -1}}, "sft.max_steps: -1 is wrong"),
    ],
    ids=str,
)
def test_what_a_sweep_cant_be_made_of_is_refused(
    name: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(name, **overrides)


def test_too_few_teachers_for_the_labels_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(tiny_model)))
    with pytest.raises(
        ConfigError, match=r"panel is .*, and the sweep labels compares one teacher with three"
    ):
        trials(SWEEPS["labels"], path, seeds=(0,), overrides={})


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)], ids=str)
def test_seeds_are_different_and_there(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="give one or more different ones from 0 on"):
        trials(SWEEPS["theta"], "demo", seeds=seeds, overrides={})


def test_a_sweep_that_isnt_there_is_named() -> None:
    assert isinstance(sweep_named("theta"), Sweep)
    with pytest.raises(ConfigError, match="no sweep 'tetha', did you mean theta\\?; there are"):
        sweep_named("tetha")


@pytest.mark.parametrize("name", NAMES)
def test_any_few_points_make_a_sweep_with_claims_about_no_others(name: str) -> None:
    every = labels(name)
    for few in (every[:1], every[-2:], every[::3]):
        found = trials(SWEEPS[name], "gsm8k-llama2-7b", seeds=(0,), overrides={}, only=few)
        assert [trial.point.label for trial in found] == few
        claims = SWEEPS[name].claims([trial.point for trial in found])
        assert {term.label for claim in claims for term in claim.terms} <= set(few)
        for claim in claims:
            assert sum(term.weight for term in claim.terms) == pytest.approx(0)


def test_a_point_that_isnt_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no point 'lora-pa', did you mean lora-par\?"):
        trials(SWEEPS["baselines"], "gsm8k-llama2-7b", seeds=(0,), overrides={}, only=["lora-pa"])


@pytest.mark.parametrize("name", [n for n in NAMES if n != "baselines"])
@pytest.mark.parametrize("method", ["lora", "random", "ia3"])
def test_a_method_on_which_a_sweep_moves_nothing_is_refused(name: str, method: str) -> None:
    with pytest.raises(ConfigError, match=f"method is {method}, and the sweep {name} moves"):
        made(name, method=method)


def test_stages_without_masks_have_no_theta_to_sweep() -> None:
    with pytest.raises(ConfigError, match="would train the same at every point"):
        made("theta", stages=[{"kind": "sft", "system": "full", "data": "all"}])


def test_a_method_is_compared_after_as_many_stages_as_it_has() -> None:
    recipe = load_recipe("lab", recipes=RECIPES)
    claims = SWEEPS["baselines"].claims(SWEEPS["baselines"].points(recipe))
    own, *others = claims
    assert [(t.label, t.phase) for t in own.terms] == [("lora-par", "last"), ("lora-par", "first")]
    phases = {claim.terms[1].label: {t.phase for t in claim.terms} for claim in others}
    assert {name for name, found in phases.items() if found == {"last"}} == {
        "lora+rl",
        "pissa+rl",
        "random",
    }
    assert all(found in ({"first"}, {"last"}) for found in phases.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_claim_is_about_nothing_and_none_stands_twice(name: str) -> None:
    every = labels(name)
    for few in (every, every[:2], every[:1], every[1:3], every[::4]):
        found = trials(SWEEPS[name], "gsm8k-llama2-7b", seeds=(0,), overrides={}, only=few)
        claims = SWEEPS[name].claims([trial.point for trial in found])
        weights = []
        for claim in claims:
            summed: dict[tuple[str, str], float] = {}
            for term in claim.terms:
                key = term.label, term.phase
                summed[key] = summed.get(key, 0.0) + term.weight
            assert any(abs(weight) > 1e-9 for weight in summed.values()), claim.text
            weights.append({k: round(v, 9) for k, v in summed.items()})
        assert len({str(sorted(one.items())) for one in weights}) == len(weights)


def test_a_cell_of_the_papers_tables_can_be_swept() -> None:
    assert {trial.recipe.partition.theta for trial in made("theta", "table5/lora-par")} >= {0.1, 1}


def test_a_claim_about_one_stage_alone_is_none_and_none_is_made_twice() -> None:
    points = SWEEPS["baselines"].points(load_recipe("lab", recipes=RECIPES))
    claims = SWEEPS["baselines"].claims(points)
    both = [claim.text for claim in claims if claim.text.startswith("lora-par above random")]
    assert len(both) == 2
    for phases in (("sft", "grpo"), ()):  # unmeasured ones are told
        assert distinct(claims, dict.fromkeys(METHODS, phases)) == claims
    alone = distinct(claims, dict.fromkeys(METHODS, ("sft",)))
    assert [c.text for c in claims if c not in alone] == [claims[0].text, both[1]]
