"""`lorapar sweep --plan`: what a sweep's trials have in common, what is left, and what it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from artifacts import Store
from flows import needs, purchases
from flows.pipeline import pipeline
from flows.plan import PlanRunner, examples_of, prepared, shown_of, tokens_of
from flows.requirements import missing_keys, missing_packages, models
from flows.summary import table
from flows.sweeps import Trial
from lorapar_core.base import locate
from lorapar_core.config import Recipe
from lorapar_core.errors import LoraparError
from lorapar_core.memory import Estimate
from lorapar_core.methods import expanded
from tasks.action import Action, Outcome

COUNTS = ("asked", "different", "cached", "compute")
"""How often trials ask for a stage, how many different ones there are, and what became of those."""


def plan_sweep(trials: Sequence[Trial], *, store: Store) -> dict[str, Any]:
    """The plan as plain values; touches nothing.

    Memory is that of the largest process, disk what all trials write, with the checkpoints of as
    many stages as run side by side. Votes that several trials ask one teacher for are bought once.

    Raises:
        LoraparError: no trial can be carried out; as the first says.
    """
    found = _Left(store)
    refused: dict[str, LoraparError] = {}
    for trial in trials:
        try:
            found.add(expanded(trial.recipe))
        except LoraparError as error:
            refused[trial.name] = error
    if len(refused) == len(trials):
        raise next(iter(refused.values()))
    recipe = trials[0].recipe
    return {
        "trials": len(trials),
        "finished": found.finished,
        "refused": [{"trial": name, "error": str(error)} for name, error in refused.items()],
        "stages": [{"stage": stage, **counts} for stage, counts in found.stages.items()],
        "votes_exact": found.exact,
        **purchases.told(list(found.bought.values())),
        "local_votes": found.local_votes,
        **_missing([trial.recipe for trial in trials]),
        **needs.told_of(found.memory(), found.disk(recipe.runtime.children), recipe.runtime),
        "side_by_side": recipe.runtime.children,
    }


@dataclass
class _Left:
    """What the trials come to, each action counted once that several ask for."""

    store: Store
    finished: int = 0
    exact: bool = True
    local_votes: int = 0
    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    bought: dict[str, purchases.Purchase] = field(default_factory=dict)
    """By ledger: what the trial that asks most of it needs."""
    _seen: set[str] = field(default_factory=set)
    _estimates: list[Estimate | None] = field(default_factory=list)
    _disks: list[needs.Disk | None] = field(default_factory=list)

    def add(self, recipe: Recipe) -> None:
        runner = PlanRunner(self.store)
        result = pipeline(recipe, runner)
        self.finished += all(o.action == "cached" for o in result.evaluations.values())
        missing = [action for action, outcome in runner.actions if self._is_left(action, outcome)]
        self.local_votes += sum(
            a.units for a in missing if a.stage == "vote" and a.place == "device"
        )
        lengths = needs.longest(recipe, tokens_of(runner))
        shown = shown_of(recipe, runner)
        self._estimates.append(needs.memory(recipe, missing, lengths, shown))
        self._disks.append(needs.disk(recipe, missing))
        self._buy(recipe, runner)

    def _is_left(self, action: Action, outcome: Outcome) -> bool:
        """Whether nobody has computed it, and no earlier trial asks for it."""
        counts = self.stages.setdefault(action.stage, dict.fromkeys(COUNTS, 0))
        counts["asked"] += 1
        if action.promise in self._seen:
            return False
        self._seen.add(action.promise)
        counts["different"] += 1
        counts["compute" if outcome.action == "missing" else "cached"] += 1
        return outcome.action == "missing"

    def _buy(self, recipe: Recipe, runner: PlanRunner) -> None:
        votes = [(a, o) for a, o in runner.actions if a.stage == "vote"]
        if all(action.place == "device" for action, _ in votes):
            return
        examples = examples_of(recipe, runner)
        self.exact &= bool(examples) and prepared(runner).action == "cached"
        ids = list(examples) if examples else None
        ledgers = purchases.ledgers_of(recipe, votes, votes[0][0].config["target"])
        for one in purchases.purchases(
            recipe, runner.actions, store=self.store, ids=ids, question=examples.__getitem__
        ):
            before = self.bought.get(ledgers[one.teacher])
            if before is None or one.most > before.most:
                self.bought[ledgers[one.teacher]] = one

    def memory(self) -> Estimate | None:
        """Of the largest process; None where that of one isn't known."""
        known = [one for one in self._estimates if one is not None]
        if len(known) < len(self._estimates):
            return None
        return max(known, key=lambda one: one.total, default=None)

    def disk(self, side_by_side: int) -> int | None:
        """Bytes; None where a part isn't known."""
        known = [one for one in self._disks if one is not None]
        if len(known) < len(self._disks):
            return None
        kept = sorted((one.kept for one in known), reverse=True)
        return sum(one.written for one in known) + sum(kept[:side_by_side])


def _missing(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """What this machine lacks for any of them, each once."""
    every = [expanded(recipe) for recipe in recipes]
    names = dict.fromkeys(model for recipe in every for model in models(recipe))
    packages = dict.fromkeys(said for recipe in every for said in missing_packages(recipe))
    keys = {key for r in every for key in missing_keys(r, environment=os.environ).values()}
    return {
        "absent": [name for name, revision in names if not locate(name, revision).path],
        "missing_packages": list(packages),
        "missing_keys": sorted(keys),
    }


def sweep_plan_lines(planned: Mapping[str, Any]) -> str:
    """For people: what is left of which stages, and what it takes."""
    rows = [[each["stage"], *(f"{each[name]:,}" for name in COUNTS)] for each in planned["stages"]]
    header = ("stage", "asked for", "different", "cached", "to compute")
    parts = [
        f"{planned['trials']} trials, {planned['finished']} of them finished",
        *(f"{one['trial']} would fail: {one['error']}" for one in planned["refused"]),
        "",
        table(header, rows),
        "",
        f"{purchases.votes_line(planned)}; local: {planned['local_votes']}",
    ]
    if planned["purchases"]:
        parts += ["", purchases.purchase_table(planned), ""]
    several = planned["side_by_side"] > 1
    beside = f"; {planned['side_by_side']} processes side by side" if several else ""
    return "\n".join([*parts, needs.memory_line(planned) + beside])
