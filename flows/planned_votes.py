"""The votes that a plan's recipes have still to ask for, each once: a ledger keeps what any of them
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
class PlannedVotes:
    """What recipes want of their teachers, united by ledger. All have the same examples: one, or a
    sweep's trials."""

    store: Store
    exact: bool = True
    _examples: dict[str, Question] | None = None
    _wanted: dict[str, purchases.Wanted] = field(default_factory=dict)
    _ledgers: set[str] = field(default_factory=set)
    _local: dict[str, Sequence[str] | int] = field(default_factory=dict)
    _seen: set[object] = field(default_factory=set)

    def add(self, recipe: Recipe, runner: PlanRunner) -> None:
        votes = frozenset(a.expected for a, _ in runner.actions if a.stage == "vote")
        panel = (votes, recipe.voting.curtailed, tuple(teacher.name for teacher in recipe.asked))
        if not votes or panel in self._seen:
            return
        self._seen.add(panel)
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
        """As a plan's fields; a teacher that plays a part for some alone is told apart."""
        question = (self._examples or {}).__getitem__
        wanted = self._wanted.values()
        both = len({one.role_play for one in wanted}) > 1
        bought = [
            replace(
                purchases.priced(one, question=question),
                teacher=one.teacher.name + (", no role play" if both and not one.role_play else ""),
            )
            for one in wanted
        ]
        return {
            "votes_exact": self.exact,
            **purchases.told(bought),
            "budget": purchases.capped(
                runtime, sorted(self._ledgers), store=self.store, ids=self._ids
            ),
            "local_votes": sum(map(purchases.count_of, self._local.values())),
        }
