"""A teacher's key is needed by the run that asks the teacher, and by no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from artifacts import Store
from flows.pipeline import pipeline, require_keys
from flows.plan import PlanRunner
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import parse_recipe
from tasks.action import Action

ROLES = ("examples.parquet", "tokens.parquet", "test.parquet", "test_tokens.parquet")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two teachers with keys, on a model that is told by its files alone."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    fields: dict[str, Any] = tiny_recipe(model)
    fields["teachers"] = [
        {"name": name, "model": f"openai/{name}", "api_key_env": f"{name.upper()}_KEY"}
        for name in ("near", "far")
    ]
    return parse_recipe(fields)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def publish(store: Store, action: Action, files: dict[str, bytes]) -> None:
    assert action.key is not None
    out = store.scratch(action.key) / "out"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(data)
    store.publish(
        out,
        key=action.key,
        stage=action.stage,
        name=action.name,
        version=action.version,
        config=action.config,
        inputs={role: str(value.digest) for role, value in action.inputs.items()},
        provenance={},
    )


def planned(recipe: Recipe, store: Store) -> dict[str, Action]:
    runner = PlanRunner(store)
    pipeline(recipe, runner)
    return {action.name: action for action, _ in runner.actions}


def test_a_key_that_is_set_is_enough(recipe: Recipe, store: Store) -> None:
    require_keys(recipe, environment={"NEAR_KEY": "x", "FAR_KEY": "y"}, store=store)


@pytest.mark.parametrize("environment", [{}, {"NEAR_KEY": ""}, {"FAR_KEY": "y"}])
def test_without_votes_every_key_is_needed(
    recipe: Recipe, store: Store, environment: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"teacher 'near' takes its key from .* NEAR_KEY, "):
        require_keys(recipe, environment=environment, store=store)


def test_a_teacher_whose_votes_are_there_needs_none(recipe: Recipe, store: Store) -> None:
    """A colleague with the same store and without keys may try another theta."""
    summary = json.dumps({"train": 24, "test": 6}).encode()
    examples = {role: role.encode() for role in ROLES} | {"summary.json": summary}
    publish(store, planned(recipe, store)["prepare"], examples)
    publish(store, planned(recipe, store)["vote[near/0]"], {"votes.parquet": b"near"})
    with pytest.raises(ConfigError, match="teacher 'far' takes its key"):
        require_keys(recipe, environment={}, store=store)

    publish(store, planned(recipe, store)["vote[far/0]"], {"votes.parquet": b"far"})
    require_keys(recipe, environment={}, store=store)
