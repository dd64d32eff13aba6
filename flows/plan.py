"""`lorapar plan`: what is cached, what would run, and what it would take.

Touches nothing, but that what it reads and finds corrupt goes into quarantine.
"""

from __future__ import annotations

from typing import Any

from artifacts import Store
from flows import needs, purchases
from flows.pipeline import pipeline
from flows.plan_runner import (
    PlanRunner,
    examples_of,
    missing_of,
    prepared,
    shown_of,
    tokens_of,
)
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
    missing = missing_of(runner)
    examples = examples_of(recipe, runner)
    ids = list(examples) if examples else None
    wanted = purchases.wanted(recipe, runner.actions, store=store, ids=ids).values()
    ledgers = purchases.ledgers_of(recipe, runner.actions).values()
    return {
        "stages": [
            {
                "name": action.name,
                "key": outcome.key,
                "state": "cached" if outcome.action == "cached" else "compute",
            }
            for action, outcome in runner.actions
        ],
        "votes_exact": bool(examples) and prepared(runner).action == "cached",
        **purchases.told([purchases.priced(one, question=examples.__getitem__) for one in wanted]),
        "budget": purchases.capped(recipe.runtime, ledgers, store=store, ids=ids),
        "local_votes": sum(a.units for a in missing if a.stage == "vote" and a.place == "device"),
        **lacking([recipe]),
        **needs.told(recipe, missing, tokens_of(runner), shown_of(recipe, runner)),
    }
