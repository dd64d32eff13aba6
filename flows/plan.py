"""`lorapar plan`: what is cached, what would run, and what it would take. Touches nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts import Ref, Store
from flows import needs
from flows.pipeline import missing_keys, missing_packages, models, pipeline
from lorapar_core.base import locate
from lorapar_core.config import Recipe
from tasks.action import Action, Outcome
from tasks.stage import look_up


@dataclass(frozen=True, slots=True)
class _Known:
    outcome: Outcome

    def result(self) -> Outcome:
        return self.outcome


@dataclass
class PlanRunner:
    """Looks every action up and runs none."""

    store: Store
    downloads: bool = False
    actions: list[tuple[Action, Outcome]] = field(default_factory=list)

    def submit(self, action: Action) -> _Known:
        outcome = look_up(action, self.store) or Outcome(
            action.name, action.stage, action.key, "missing", 0.0, {}
        )
        self.actions.append((action, outcome))
        return _Known(outcome)


def plan(recipe: Recipe, *, store: Store) -> dict[str, Any]:
    """The plan as plain values.

    Raises:
        LoraparError: bad input, as `pipeline` says before any work.
    """
    runner = PlanRunner(store)
    pipeline(recipe, runner)
    missing = [action for action, outcome in runner.actions if outcome.action == "missing"]
    asked = sum(action.units for action in missing if action.place == "network")
    local = sum(action.units for action in missing if action.stage == "vote") - asked
    return {
        "stages": [
            {
                "name": action.name,
                "key": outcome.key,
                "state": "cached" if outcome.action == "cached" else "compute",
            }
            for action, outcome in runner.actions
        ],
        "votes": asked,
        "votes_exact": any(
            a.stage == "prepare" and o.action == "cached" for a, o in runner.actions
        ),
        "local_votes": local,
        "cost_usd": None if asked else 0.0,
        "absent": [name for name, revision in models(recipe) if not locate(name, revision).path],
        "missing_packages": missing_packages(recipe),
        "missing_keys": sorted(missing_keys(recipe, environment=os.environ).values()),
        **needs.told(recipe, missing, _tokens(runner)),
    }


def _tokens(runner: PlanRunner) -> Path | None:
    """The table of tokens, where `prepare` is cached."""
    prepared = next(outcome for _, outcome in runner.actions if outcome.stage == "prepare")
    table = prepared["tokens.parquet"]
    return runner.store.path(table) if isinstance(table, Ref) else None
