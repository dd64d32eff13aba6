"""What a benchmark's actions hang on: what is asked, of whom, and how, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import gsm8k_rows, write_rows
from tiny_recipe import tiny_recipe

from artifacts import Ref
from lorapar_core.config import BenchmarkConfig, Recipe
from lorapar_core.data.sources import Source
from lorapar_core.recipe import merge, parse_recipe
from tasks.action import Action, External, Outcome
from tasks.benchmark import benchmark, label_of, measure
from tasks.prepare import Located
from tasks.programs import JUDGED

READ = Outcome(
    "benchmark[a]",
    "benchmark",
    "0" * 64,
    "cached",
    0.0,
    {role: Ref("1" * 64, 1, "file") for role in ("problems.parquet", "benchmark.json")},
)
GSM8K = {"task": "gsm8k", "source": "set.jsonl", "shots_source": "shots.jsonl", "shots": 2}
CODE = {"task": "humaneval", "source": "set.jsonl"}


def file(path: Path) -> Located:
    return Located(Source("file", ".jsonl"), path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_rows(tmp_path / "set.jsonl", gsm8k_rows(3))
    write_rows(tmp_path / "shots.jsonl", gsm8k_rows(5, start=9))
    return tmp_path


def read(place: Path, **changed: Any) -> Action:
    config = BenchmarkConfig.model_validate({**GSM8K, **changed})
    shots = file(place / "shots.jsonl") if config.shots else None
    return benchmark(config, test=file(place / "set.jsonl"), shots=shots)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"name": "other"}, True),
        ({"models": "base"}, True),
        ({"prompt": "chat"}, True),
        ({"max_new_tokens": 7}, True),
        ({"shots": 1}, False),
        ({"seed": 1}, False),
        ({"examples": 2}, False),
        ({"task": "svamp"}, False),
    ],
    ids=str,
)
def test_who_is_asked_does_not_change_what_is_asked(
    place: Path, changed: dict[str, Any], same: bool
) -> None:
    assert (read(place).key == read(place, **changed).key) is same
    assert read(place, **changed).name == f"benchmark[{changed.get('name') or read_task(changed)}]"


def read_task(changed: dict[str, Any]) -> str:
    return str(changed.get("task", "gsm8k"))


def test_a_file_is_known_by_its_content(place: Path, tmp_path: Path) -> None:
    before = read(place).key
    moved = tmp_path / "elsewhere"
    for name in ("set.jsonl", "shots.jsonl"):
        write_rows(moved / name, []).write_bytes((place / name).read_bytes())
    assert read(moved).key == before
    write_rows(moved / "shots.jsonl", gsm8k_rows(5, start=10))
    assert read(moved).key != before


def test_a_seed_that_draws_nothing_changes_nothing(place: Path) -> None:
    still = {"shots": 0, "shots_source": ""}
    assert read(place, **still).key == read(place, **still, seed=4).key


def put(recipe: Recipe, after: str, kind: str, **changed: Any) -> Action:
    config = BenchmarkConfig.model_validate({**GSM8K, "shots": 0, "shots_source": "", **changed})
    adapter = None if after == "base" else External("2" * 64)
    return measure(
        recipe,
        config,
        after=after,
        kind=kind,
        base=External("3" * 64),
        adapter=adapter,
        problems=READ,
    )


def recipe_of(**sections: Any) -> Recipe:
    return parse_recipe(merge(tiny_recipe("model"), sections))


@pytest.mark.parametrize(
    ("config", "changed", "same"),
    [
        ({}, {"name": "other"}, True),
        ({}, {"models": "trained"}, True),
        ({}, {"max_new_tokens": 8}, True),  # the evaluation's own
        ({}, {"max_new_tokens": 9}, False),
        ({}, {"prompt": "chat"}, False),
        ({}, {"prompt": "as_sft"}, False),
        (CODE, {"samples": 2}, False),
        (CODE | {"samples": 2}, {"temperature": 0.2}, False),
        (CODE | {"samples": 2}, {"seed": 1}, False),
        (CODE, {"seed": 1}, True),
        (CODE | {"samples": 4}, {"k": [1, 4]}, False),
    ],
    ids=str,
)
def test_how_it_is_asked(config: dict[str, Any], changed: dict[str, Any], same: bool) -> None:
    recipe = recipe_of()
    one, other = (put(recipe, "sft", "sft", **{**config, **c}) for c in ({}, changed))
    assert (one.key == other.key) is same


def test_what_writes_nothing_is_known_by_no_length() -> None:
    recipes = recipe_of(), recipe_of(evaluation={"max_new_tokens": 77})
    one, other = (put(recipe, "sft", "sft", task="mmlu") for recipe in recipes)
    assert one.key == other.key
    one, other = (put(recipe, "sft", "sft") for recipe in recipes)
    assert one.key != other.key


@pytest.mark.parametrize(
    ("changed", "same"),
    [({}, True), ({"task": "mmlu"}, True), (CODE, False), ({**CODE, "task": "file"}, False)],
    ids=str,
)
def test_how_programs_are_judged_changes_what_may_hold_programs(
    changed: dict[str, Any], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = put(recipe_of(), "sft", "sft", **changed).key
    monkeypatch.setattr("tasks.benchmark.JUDGED", {"programs": JUDGED["programs"] + 1})
    assert (put(recipe_of(), "sft", "sft", **changed).key == before) is same


@pytest.mark.parametrize(
    ("sections", "plain", "as_sft"),
    [
        ({"sft": {"prompt": "chat"}}, True, False),
        ({"grpo": {"system_prompt": "Answer."}}, True, False),
        ({"model": {"chat_template": "x"}}, True, False),
        ({"evaluation": {"batch_tokens": 77}}, False, False),
        ({"evaluation": {"base": False}}, True, True),
        ({"model": {"dtype": "bfloat16"}}, False, False),
        ({"runtime": {"sandbox": "limits"}}, True, True),
        ({"sft": {"learning_rate": 0.5}}, True, True),
    ],
    ids=str,
)
def test_what_it_reads_of_the_recipe(sections: dict[str, Any], plain: bool, as_sft: bool) -> None:
    recipes = recipe_of(), recipe_of(**sections)
    for prompt, same in (("plain", plain), ("as_sft", as_sft)):
        one, other = (put(recipe, "sft", "sft", prompt=prompt).key for recipe in recipes)
        assert (one == other) is same, prompt


def test_the_last_stage_decides_how_it_is_asked_as_in_training() -> None:
    recipe = recipe_of(grpo={"prompt": "tags"})
    for prompt, formats in (("plain", ("sft", "sft")), ("as_sft", ("sft", "grpo"))):
        actions = [put(recipe, kind, kind, prompt=prompt) for kind in ("sft", "grpo")]
        assert tuple(action.config["format"] for action in actions) == formats
    assert put(recipe, "grpo", "grpo", prompt="as_sft").config["answer_format"] == "tags"
    assert put(recipe, "grpo", "grpo", prompt="plain").config["answer_format"] == "hash"
    assert put(recipe, "grpo", "grpo").name == "evaluate[grpo/gsm8k]"
    assert label_of(put(recipe, "sft[2]", "sft", name="my-own")) == "my-own"
    assert "adapter" not in put(recipe, "base", "sft").inputs
