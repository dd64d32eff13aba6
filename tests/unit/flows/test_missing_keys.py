"""A teacher's key is needed by the run that asks the teacher, and by no other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from artifacts import Store
from flows.pipeline import pipeline
from flows.plan_runner import PlanRunner
from flows.requirements import require_keys
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import parse_recipe
from lorapar_core.rounds import is_audited, order
from lorapar_core.teachers.ballot import Ballot
from lorapar_core.teachers.tables import write_votes
from tasks.action import Action

NAMES = ("near", "far", "third")
_HASHES = [hashlib.sha256(str(k).encode()).hexdigest()[:32] for k in range(200)]
_ALIKE = [i for i in _HASHES if not is_audited(i) and order(i, NAMES) == order(_HASHES[1], NAMES)]
IDS = _ALIKE[:2]
"""Two that everybody is asked about in the same order."""
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
    with pytest.raises(ConfigError, match=r"not set: 'near' from NEAR_KEY[,;]"):
        require_keys(recipe, environment=environment, store=store)


def prepared(recipe: Recipe, store: Store) -> None:
    """The examples are there: two that are not voted on by all."""
    summary = json.dumps({"train": 24, "test": 6}).encode()
    files = {role: role.encode() for role in ROLES}
    ids = json.dumps(IDS).encode()
    publish(
        store,
        planned(recipe, store)["prepare"],
        {**files, "summary.json": summary, "ids.json": ids},
    )


def cast(recipe: Recipe, store: Store, name: str, votes: dict[str, int], tmp_path: Path) -> None:
    ballots = [Ballot(example_id, vote, "", "") for example_id, vote in votes.items()]
    folder = tmp_path / name.replace("/", "-")
    folder.mkdir()
    write_votes(folder, ballots, [], teacher=name, asked="0")
    data = (folder / "votes.parquet").read_bytes()
    publish(store, planned(recipe, store)[f"vote[{name}]"], {"votes.parquet": data})


def test_a_teacher_whose_votes_are_there_needs_none(
    recipe: Recipe, store: Store, tmp_path: Path
) -> None:
    """A colleague with the same store and without keys may try another theta."""
    prepared(recipe, store)
    cast(recipe, store, "near", dict.fromkeys(IDS, 1), tmp_path)
    with pytest.raises(ConfigError, match="not set: 'far' from FAR_KEY;"):
        require_keys(recipe, environment={}, store=store)

    cast(recipe, store, "far", dict.fromkeys(IDS, 2), tmp_path)
    require_keys(recipe, environment={}, store=store)


def with_voting(recipe: Recipe, **voting: Any) -> Recipe:
    fields = recipe.model_dump(mode="json")
    third = {"name": "third", "model": "openai/third", "api_key_env": "THIRD_KEY"}
    return parse_recipe({**fields, "teachers": [*fields["teachers"], third], "voting": voting})


def test_the_judge_s_key_is_needed_while_the_votes_may_still_tie(
    recipe: Recipe, store: Store, tmp_path: Path
) -> None:
    """Not only once all others have been paid for."""
    judged = with_voting(recipe, tie="escalate", escalate_to="third")
    keys = {"NEAR_KEY": "x", "FAR_KEY": "y"}
    with pytest.raises(ConfigError, match="not set: 'third' from THIRD_KEY;"):
        require_keys(judged, environment=keys, store=store)
    prepared(judged, store)
    cast(judged, store, "near", dict.fromkeys(IDS, 1), tmp_path)
    with pytest.raises(ConfigError, match="not set: 'third' from THIRD_KEY;"):
        require_keys(judged, environment=keys, store=store)

    cast(judged, store, "far", dict.fromkeys(IDS, 1), tmp_path)
    require_keys(judged, environment={}, store=store)  # no tie


def test_the_judge_s_key_is_needed_where_votes_tie(
    recipe: Recipe, store: Store, tmp_path: Path
) -> None:
    judged = with_voting(recipe, tie="escalate", escalate_to="third")
    prepared(judged, store)
    cast(judged, store, "near", dict.fromkeys(IDS, 1), tmp_path)
    cast(judged, store, "far", {IDS[0]: 1, IDS[1]: 2}, tmp_path)
    with pytest.raises(ConfigError, match="not set: 'third' from THIRD_KEY;"):
        require_keys(judged, environment={}, store=store)
    cast(judged, store, "third/2", {IDS[1]: 2}, tmp_path)
    require_keys(judged, environment={}, store=store)


def test_curtailed_voting_needs_the_key_of_everybody_whom_a_later_round_may_ask(
    recipe: Recipe, store: Store
) -> None:
    some = with_voting(recipe, curtailed=True, target="somebody")
    prepared(some, store)
    first = {name for name in planned(some, store) if name.startswith("vote[")}
    assert first == {f"vote[{name}]" for name in order(IDS[0], NAMES)[:2]}
    last = order(IDS[0], NAMES)[2]
    keys = {f"{name.upper()}_KEY": "x" for name in NAMES if name != last}
    with pytest.raises(ConfigError, match=f"not set: .*'{last}' from "):
        require_keys(some, environment=keys, store=store)
