"""The votes of a recipe: rounds of actions, one for each teacher that is asked something.

Full voting is a single round. Curtailed voting takes as many as it needs (`lorapar_core.rounds`);
then, where the rule says so, the judge is asked about ties. A plan composes the rounds that can be
known from what the store has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.budget import Budget
from flows.composition import Run
from lorapar_core.config import Recipe, TeacherConfig
from lorapar_core.errors import BudgetReached
from lorapar_core.rounds import Votes, for_the_judge, next_round
from lorapar_core.rule import Rule
from lorapar_core.teachers.ballot import ids_digest
from lorapar_core.teachers.calibration import COLUMNS, labels_of
from tasks.action import UNKNOWN, Action, External, Input, Outcome
from tasks.model import Model
from tasks.stage import look_up
from tasks.vote import asked, vote


@dataclass(frozen=True, slots=True)
class Voter:
    """A teacher, and what it is on this machine."""

    teacher: TeacherConfig
    model: Model | None = None
    """A local teacher's."""
    replayed: Input | None = None
    """A replay's file."""


def voter_of(teacher: TeacherConfig, model: Model | None) -> Voter:
    if teacher.provider != "replay":
        return Voter(teacher, model)
    path = Path(teacher.model).expanduser()
    return Voter(teacher, replayed=External.of_file(path))


class Voting:
    """A recipe's votes on its examples. `ids` are None in a plan for which nobody knows them."""

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        *,
        voters: Sequence[Voter],
        examples: Input,
        ids: Sequence[str] | None,
        count: int,
        target: str,
    ) -> None:
        self._run = run
        self._recipe = recipe
        self._voters = {voter.teacher.name: voter for voter in voters}
        self._examples = examples
        self._ids = ids
        self._count = count
        self._target = target
        self._rule = rule_of(recipe)
        self._panel = [teacher.name for teacher in recipe.panel]
        self._rounds: dict[str, list[Outcome]] = {name: [] for name in self._voters}
        self._nth = 0
        self._budget = Budget(recipe.runtime, store=run.runner.store, ledgers=self._ledgers())

    def votes(self, *beside: Action) -> tuple[dict[str, list[Outcome]], list[Outcome]]:
        """Teacher -> the outcomes of its rounds; and those of actions that need no vote, carried
        out beside the first round.

        Raises:
            BudgetReached: a cap was met; the message says what is missing.
            LoraparError: as the stages say.
        """
        with self._budget.ended():
            try:
                others = self._ask(self._first(), *beside)
                if self._ids is not None and (self._recipe.voting.curtailed or self._recipe.judge):
                    self._go_on(self._ids)
            except BudgetReached as error:
                raise BudgetReached(self._what_is_missing(self._ids or [])) from error
        return self._rounds, others

    def _first(self) -> Mapping[str, Sequence[str] | None]:
        """Whom to ask about what in the first round; without ids everybody."""
        if self._ids is None:
            return dict.fromkeys(self._panel)
        unasked: dict[str, Votes] = {name: {} for name in self._panel}
        return next_round(self._ids, unasked, self._rule, curtailed=self._recipe.voting.curtailed)

    def _go_on(self, ids: Sequence[str]) -> None:
        """The rounds after the first, as far as what is known of them goes."""
        votes = self._known(self._panel)
        while votes is not None and self._recipe.voting.curtailed:
            asks = next_round(ids, votes, self._rule)
            if not asks:
                break
            self._ask(asks)
            votes = self._known(self._panel)
        judge = self._recipe.judge
        if votes is None or judge is None:
            return
        ties = for_the_judge(ids, votes, self._rule, judged={})
        if ties:
            self._ask({judge.name: ties})

    def _ask(self, asks: Mapping[str, Sequence[str] | None], *beside: Action) -> list[Outcome]:
        """Carry out a round; returns the outcomes of the actions beside it."""
        names = [name for name in self._voters if name in asks]
        self._nth += 1
        actions = [self._action(name, asks[name]) for name in names]
        outcomes = self._run(*map(self._afforded, actions), *beside)
        for name, outcome in zip(names, outcomes, strict=False):
            self._rounds[name].append(outcome)
        return outcomes[len(names) :]

    def _action(self, name: str, ids: Sequence[str] | None) -> Action:
        voter = self._voters[name]
        return vote(
            self._recipe,
            voter.teacher,
            name=name if self._nth == 1 else f"{name}/{self._nth}",
            examples=UNKNOWN if ids is None else self._examples,
            ids=ids or [],
            ids_digest="" if ids is None else ids_digest(ids),
            units=self._count if ids is None else len(ids),
            model=voter.model,
            replayed=voter.replayed,
            target=self._target,
        )

    def _afforded(self, action: Action) -> Action:
        """The action, with the run's purse where it is going to ask a teacher that costs money."""
        runner = self._run.runner
        if action.place != "network" or not runner.downloads or look_up(action, runner.store):
            return action
        purse = self._budget.purse(self._ids or [])
        return replace(action, site={**action.site, "purse": str(purse)}) if purse else action

    def _known(self, names: Sequence[str]) -> dict[str, Votes] | None:
        """The votes so far; None where a round has not been held (a plan)."""
        known: dict[str, Votes] = {}
        for name in names:
            tables = []
            for outcome in self._rounds[name]:
                table = self._run.read_table(outcome["votes.parquet"], COLUMNS)
                if table is None:
                    return None
                tables.append(table)
            calibration = self._voters[name].teacher.calibration
            known[name], _ = labels_of(tables, calibration)
        return known

    def _ledgers(self) -> dict[str, Path]:
        """Teachers that cost money -> their ledgers."""
        return {
            name: self._run.runner.store.ledger(
                asked(self._recipe, voter.teacher, model=None, target=self._target)["asked"]
            )
            for name, voter in self._voters.items()
            if voter.teacher.provider == "litellm"
        }

    def _what_is_missing(self, ids: Sequence[str]) -> str:
        known = self._known(self._panel) or {}
        ties = for_the_judge(ids, known, self._rule, judged={})
        missing = self._budget.missing(
            {name: ids if name in self._panel else ties for name in self._voters}
        )
        counts = ", ".join(f"{name} {count}" for name, count in missing.items() if count)
        most = "at most " if self._recipe.voting.curtailed else ""
        runtime = self._recipe.runtime
        caps = [cap for cap in ("budget_usd", "budget_votes") if getattr(runtime, cap) is not None]
        return (
            f"voting stops at the cap: {self._budget.told()} are spent, earlier runs included (a "
            f"request whose bill nobody knows counts as its most); still missing: {most}"
            f"{sum(missing.values())} votes ({counts}); raise "
            f"{' or '.join(f'runtime.{cap}' for cap in caps)} and run again, it goes on from here"
        )


def rule_of(recipe: Recipe) -> Rule:
    """How its votes become labels."""
    voting = recipe.voting
    return Rule(tie=voting.tie, quorum=voting.quorum, abstentions=voting.abstentions)
