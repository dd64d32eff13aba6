"""Voting from the recipe to the labels, with real vote processes and teachers on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from teacher_server import Running, teacher_server
from tiny_recipe import tiny_recipe
from voting_only import EXAMPLES, remote, vote_only, voting_recipe

from artifacts import Store
from flows.plan import plan
from lorapar_core.config import Recipe
from lorapar_core.errors import BudgetReached, ConfigError, VoteError
from lorapar_core.parquet import read_table

pytestmark = pytest.mark.filterwarnings("ignore:Logger 'lorapar:UserWarning")
ROOT = Path(__file__).parents[2]
NAMES = ("ada", "ben", "cleo", "dora", "emil")
TOKENS_USD = 308 / 1e6
"""What the server bills for a vote, at a dollar a million tokens."""


@pytest.fixture
def server() -> Iterator[Running]:
    with teacher_server(disagree=0.25) as running:
        yield running


def recipe_of(
    model: Path, server: Running, *names: str, teacher: dict[str, Any] | None = None, **voting: Any
) -> Recipe:
    teachers = [remote(name, server.url, **(teacher or {})) for name in names]
    return voting_recipe(model, teachers, voting=voting)


def requests(server: Running) -> int:
    return int(server.seen()["seen"].get("requests", 0))


def test_every_vote_is_bought_once(tiny_model: Path, server: Running, tmp_path: Path) -> None:
    """Another teacher, a smaller panel, curtailed voting and a lost artifact ask for nothing that
    is held."""
    three = recipe_of(tiny_model, server, *NAMES[:3])
    full = vote_only(three, tmp_path / "store")
    assert requests(server) == 3 * EXAMPLES
    assert set(full.labels.values()) == {1, 2}

    again = vote_only(three, tmp_path / "store")
    assert set(again.actions.values()) == {"cached"}
    assert again.labels == full.labels

    five = vote_only(recipe_of(tiny_model, server, *NAMES), tmp_path / "store")
    assert requests(server) == 5 * EXAMPLES
    assert [name for name, how in five.actions.items() if how == "computed"] == [
        "vote[dora]",
        "vote[emil]",
        "tally",
    ]

    curtailed = vote_only(recipe_of(tiny_model, server, *NAMES, curtailed=True), tmp_path / "store")
    assert requests(server) == 5 * EXAMPLES
    assert curtailed.labels == five.labels
    assert curtailed.agreement["votes"] < curtailed.agreement["votes_if_full"] == 5 * EXAMPLES

    for record in (tmp_path / "store" / "actions").glob("*.json"):
        if json.loads(record.read_text())["stage"] == "vote":
            record.unlink()
    once_more = vote_only(three, tmp_path / "store")
    assert once_more.actions["vote[ada]"] == "computed"
    assert requests(server) == 5 * EXAMPLES
    assert once_more.labels == full.labels


@pytest.mark.slow
def test_curtailed_voting_asks_less_for_the_same_labels(
    tiny_model: Path, server: Running, tmp_path: Path
) -> None:
    curtailed = vote_only(recipe_of(tiny_model, server, *NAMES, curtailed=True), tmp_path / "a")
    asked = requests(server)
    assert asked == curtailed.agreement["votes"] < 5 * EXAMPLES
    assert {name[-3:] for name in curtailed.actions if "/" in name} == {"/2]", "/3]"}
    assert curtailed.agreement["sample"] < EXAMPLES
    full = vote_only(recipe_of(tiny_model, server, *NAMES), tmp_path / "b")
    assert curtailed.labels == full.labels
    grown = vote_only(recipe_of(tiny_model, server, *NAMES), tmp_path / "a")
    assert requests(server) == asked + 5 * EXAMPLES + (5 * EXAMPLES - asked)
    assert grown.labels == full.labels


@pytest.mark.slow
def test_a_plan_says_what_a_larger_panel_reopens(
    tiny_model: Path, server: Running, tmp_path: Path
) -> None:
    vote_only(recipe_of(tiny_model, server, *NAMES[:3], curtailed=True), tmp_path / "store")
    before = requests(server)
    larger = recipe_of(tiny_model, server, *NAMES, curtailed=True)
    planned = plan(larger, store=Store.open(tmp_path / "store", create=False))
    assert requests(server) == before
    assert planned["votes_exact"]
    vote_only(larger, tmp_path / "store")
    bought = requests(server) - before
    assert 0 < planned["votes_least"] <= bought <= planned["votes"]
    begun = sum(p["begun"] for p in planned["purchases"])
    assert 0 < begun <= planned["votes"]
    assert planned["cost_usd"] > 0


def test_at_the_cap_it_stops_says_what_is_missing_and_goes_on(
    tiny_model: Path, server: Running, tmp_path: Path
) -> None:
    def recipe(**runtime: Any) -> Recipe:
        teachers = [remote(name, server.url) for name in NAMES[:2]]
        return voting_recipe(tiny_model, teachers, runtime=runtime)

    store = tmp_path / "store"
    with pytest.raises(BudgetReached) as stopped:
        vote_only(recipe(budget_votes=30), store)
    assert requests(server) == 30
    assert "still missing: 18 votes" in str(stopped.value)
    assert "runtime.budget_votes" in str(stopped.value)

    cap = 40 * TOKENS_USD
    with pytest.raises(BudgetReached, match=r"\$0\.0123"):
        vote_only(recipe(budget_usd=cap), store)
    assert 30 < requests(server) <= 40

    done = vote_only(recipe(budget_usd=1), store)
    assert requests(server) == 48
    assert len(done.labels) == EXAMPLES
    assert not list((store / "tmp").glob("purse-*"))
    assert set(vote_only(recipe(budget_usd=0), store).actions.values()) == {"cached"}


def test_a_cap_in_dollars_needs_prices(tiny_model: Path, tmp_path: Path) -> None:
    teacher = {"name": "mine", "model": "openai/x", "api_base": "http://127.0.0.1:9/v1"}
    recipe = voting_recipe(tiny_model, [teacher], runtime={"budget_usd": 1.0})
    with pytest.raises(ConfigError, match=r"teacher 'mine' \(openai/x\) is unknown; give its"):
        vote_only(recipe, tmp_path / "store")


@pytest.mark.slow
def test_ties_go_to_the_judge_alone(tiny_model: Path, server: Running, tmp_path: Path) -> None:
    judged = recipe_of(
        tiny_model, server, "ada", "ben", "judge", tie="escalate", escalate_to="judge"
    )
    done = vote_only(judged, tmp_path / "store")
    ties = requests(server) - 2 * EXAMPLES
    assert 0 < ties < EXAMPLES
    assert done.agreement["teachers"]["judge"]["votes"] == ties
    assert len(done.labels) == EXAMPLES


@pytest.mark.slow
def test_votes_can_be_replayed_from_a_file(
    tiny_model: Path, server: Running, tmp_path: Path
) -> None:
    first = vote_only(recipe_of(tiny_model, server, "ada"), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    votes = store.path(first.outcomes["vote[ada]"].outputs["votes.parquet"])
    file = tmp_path / "votes.parquet"
    file.write_bytes(votes.read_bytes())
    replay = voting_recipe(
        tiny_model, [{"name": "again", "provider": "replay", "model": str(file)}]
    )
    done = vote_only(replay, tmp_path / "other")
    assert done.labels == first.labels
    assert requests(server) == EXAMPLES

    few = {name: column[:3] for name, column in read_table(file).items()}
    from lorapar_core.parquet import write_table
    from lorapar_core.teachers.tables import VOTES

    write_table(file, few, VOTES)
    with pytest.raises(VoteError, match="has no vote on 21 of 24 examples"):
        vote_only(replay, tmp_path / "other")


def test_a_killed_run_asks_for_the_rest_only(tiny_model: Path, tmp_path: Path) -> None:
    """kill -9 of the whole run, its vote processes with it."""
    import yaml

    with teacher_server(latency_s=0.5) as server:
        teachers = [remote(name, server.url, concurrency=4) for name in NAMES[:2]]
        fields = {**tiny_recipe(tiny_model), "teachers": teachers}
        recipe = tmp_path / "r.yaml"
        recipe.write_text(yaml.safe_dump(fields))
        command = [sys.executable, "-m", "flows.cli", "run", recipe, "--store", tmp_path / "store"]
        run = subprocess.Popen([str(word) for word in command], cwd=ROOT, stderr=subprocess.DEVNULL)
        while requests(server) < 20:
            assert run.poll() is None
        run.kill()
        run.wait()
        asked = requests(server)
        assert asked < 2 * EXAMPLES
        done = vote_only(voting_recipe(tiny_model, teachers), tmp_path / "store")
        assert len(done.labels) == EXAMPLES
        assert requests(server) - 2 * EXAMPLES <= 2 * 4  # those that were under way
