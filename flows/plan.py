"""`lorapar plan`: what is cached, what would run, and what it would take.

Touches nothing, but that what it reads and finds corrupt goes into quarantine.
"""

from __future__ import annotations

from typing import Any

from artifacts import Store
from flows import needs
from flows.pipeline import pipeline
from flows.plan_runner import PlanRunner, benchmarks_of, missing_of, tokens_of
from flows.planned_votes import PlannedVotes
from flows.requirements import lacking
from lorapar_core.config import Recipe
from lorapar_core.methods import expanded


def plan(recipe: Recipe, *, store: Store) -> dict[str, Any]:
    """The plan as plain values.

    Raises:
        LoraparError: bad input, as `pipeline` says before any work.
        CorruptObject, MissingObject: of what a plan reads; tried again, it counts it as missing.
    """
    recipe = expanded(recipe)
    runner = PlanRunner(store)
    pipeline(recipe, runner)
    votes = PlannedVotes(store)
    votes.add(recipe, runner)
    return {
        "stages": [
            {
                "name": action.name,
                "key": outcome.key,
                "state": "cached" if outcome.action == "cached" else "compute",
            }
            for action, outcome in runner.actions
        ],
        **votes.told(recipe.runtime),
        **lacking([recipe]),
        **needs.told(recipe, missing_of(runner), tokens_of(runner), benchmarks_of(recipe, runner)),
    }
