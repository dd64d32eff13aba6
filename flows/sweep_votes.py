"""The votes that a sweep's trials have still to ask for, each once: a ledger keeps what any of them
has asked its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from artifacts import Store
from flows import purchases
from flows.plan_runner import PlanRunner, examples_of, missing_of, prepared
from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.teachers.ballot import Question


@dataclass
class SweepVotes:
    """What trials want of their teachers, united by ledger. All trials have the same examples."""

    store: Store
    exact: bool = True
    _examples: dict[str, Question] | None = None
    _wanted: dict[str, purchases.Wanted] = field(default_factory=dict)
    _ledgers: set[str] = field(default_factory=set)
    _local: dict[str, Sequence[str] | int] = field(default_factory=dict)

    def add(self, recipe: Recipe, runner: PlanRunner) -> None:
        if all(action.stage != "vote" for action, _ in runner.actions):
            return
        if self._examples is None:
            self._examples = examples_of(recipe, runner)
            self.exact = bool(self._examples) and prepared(runner).action == "cached"
        wanted = purchases.wanted(recipe, runner.actions, store=self.store, ids=self._ids)
        for ledger, one in wanted.items():
            before = self._wanted.get(ledger)
            self._wanted[ledger] = before.united(one) if before else one
        self._ledgers |= set(purchases.ledgers_of(recipe, runner.actions).values())
        for action in missing_of(runner):
            if action.stage == "vote" and action.place == "device":
                asked = action.site["ids"] or self._ids or action.units
                known = self._local.get(action.ledger, ())
                self._local[action.ledger] = purchases.united(known, asked)

    @property
    def _ids(self) -> list[str] | None:
        return list(self._examples) if self._examples else None

    def told(self, runtime: RuntimeConfig) -> dict[str, Any]:
        """As a plan's fields; a teacher that plays no part in some trials is told apart."""
        question = (self._examples or {}).__getitem__
        bought = [
            replace(purchases.priced(one, question=question), teacher=_name(one))
            for one in self._wanted.values()
        ]
        return {
            "votes_exact": self.exact,
            **purchases.told(bought),
            "budget": purchases.capped(
                runtime, sorted(self._ledgers), store=self.store, ids=self._ids
            ),
            "local_votes": sum(map(purchases.count_of, self._local.values())),
        }


def _name(one: purchases.Wanted) -> str:
    return one.teacher.name + ("" if one.role_play else ", no role play")
