"""`lorapar sweep --plan`: what a sweep's trials have in common, what is left, and what it takes.

Touches nothing, but that what it reads and finds corrupt goes into quarantine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from artifacts import Store
from flows import needs
from flows.gathering import is_evaluated
from flows.pipeline import pipeline
from flows.plan_runner import PlanRunner, benchmarks_of, missing_of, tokens_of
from flows.planned_votes import PlannedVotes
from flows.requirements import check, lacking
from flows.sweeps import Trial
from lorapar_core.config import Recipe
from lorapar_core.errors import LoraparError
from lorapar_core.memory import Estimate
from lorapar_core.methods import expanded
from tasks.action import Action, Outcome

COUNTS = ("asked", "different", "cached", "compute")
"""How often trials ask for a stage, how many different ones there are, and what became of those."""


def plan_sweep(trials: Sequence[Trial], *, store: Store) -> dict[str, Any]:
    """The plan as plain values.

    What is left of a stage is the most that it can be: trials that come to the same labels have
    what follows in common. Memory is that of the largest process, disk what all trials write, with
    the checkpoints of as many stages as run side by side.

    Raises:
        LoraparError: a trial's recipe can't be carried out; or none can, as the first says.
        CorruptObject, MissingObject: of what a plan reads; tried again, it counts it as missing.
    """
    for trial in trials:
        check(trial.recipe, runs=False)
    left, votes, refused = Left(), PlannedVotes(store), dict[str, LoraparError]()
    recipes = []
    for trial in trials:
        recipe, runner = expanded(trial.recipe), PlanRunner(store)
        try:
            result = pipeline(recipe, runner)
        except LoraparError as error:  # too few examples of a system; the others go on
            refused[trial.name] = error
            continue
        recipes.append(recipe)
        left.add(recipe, runner, finished=is_evaluated(result))
        votes.add(recipe, runner)
    if not recipes:
        raise next(iter(refused.values()))
    runtime = trials[0].recipe.runtime
    return {
        "points": list(dict.fromkeys(trial.point.label for trial in trials)),
        "seeds": list(dict.fromkeys(trial.seed for trial in trials)),
        "trials": len(trials),
        "finished": left.finished,
        "refused": [{"trial": name, "error": str(error)} for name, error in refused.items()],
        "stages": [{"stage": stage, **counts} for stage, counts in left.stages.items()],
        **votes.told(runtime),
        **lacking(recipes),
        **needs.told_of(left.memory(), left.disk(runtime.children), runtime),
        "side_by_side": runtime.children,
    }


@dataclass
class Left:
    """What the trials come to, each action counted once that several ask for."""

    finished: int = 0
    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _estimates: list[Estimate | None] = field(default_factory=list)
    _disks: list[needs.Disk | None] = field(default_factory=list)

    def add(self, recipe: Recipe, runner: PlanRunner, *, finished: bool) -> None:
        self.finished += finished
        missing = {action.expected: action for action in missing_of(runner)}
        new = [action for expected, action in missing.items() if expected not in self._seen]
        for action, outcome in runner.actions:
            self._count(action, outcome)
        lengths, shown = needs.longest(recipe, tokens_of(runner)), benchmarks_of(recipe, runner)
        self._estimates.append(needs.memory(recipe, new, lengths, shown))
        self._disks.append(needs.disk(recipe, new))

    def _count(self, action: Action, outcome: Outcome) -> None:
        counts = self.stages.setdefault(action.stage, dict.fromkeys(COUNTS, 0))
        counts["asked"] += 1
        if action.expected not in self._seen:
            self._seen.add(action.expected)
            counts["different"] += 1
            counts["compute" if outcome.action == "missing" else "cached"] += 1

    def memory(self) -> Estimate | None:
        """Of the largest process; None where that of one isn't known."""
        known = [one for one in self._estimates if one is not None]
        if len(known) < len(self._estimates):
            return None
        return max(known, key=lambda one: one.total)

    def disk(self, side_by_side: int) -> int | None:
        """Bytes; None where a part isn't known."""
        known = [one for one in self._disks if one is not None]
        if len(known) < len(self._disks):
            return None
        kept = sorted((one.kept for one in known), reverse=True)
        return sum(one.written for one in known) + sum(kept[:side_by_side])
