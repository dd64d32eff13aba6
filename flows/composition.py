"""What a pipeline is composed with: a runner that carries out actions, and the run it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from artifacts import Ref, Store
from lorapar_core.errors import BudgetReached
from lorapar_core.parquet import read_table
from tasks.action import Action, Input, Outcome


class Promise(Protocol):
    """An outcome that is, or will be, there."""

    def result(self) -> Outcome: ...


class Runner(Protocol):
    """Carries out actions; several may be under way."""

    @property
    def store(self) -> Store: ...

    @property
    def downloads(self) -> bool:
        """Whether models and data may be fetched (a plan doesn't)."""
        ...

    def submit(self, action: Action) -> Promise: ...


class Run:
    """Submits actions and keeps their outcomes in order."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.outcomes: list[Outcome] = []

    def __call__(self, *actions: Action) -> list[Outcome]:
        """Outcomes of actions that don't need each other, computed side by side.

        Raises:
            BudgetReached: some stopped at the cap; the others have ended what they had begun.
            LoraparError: as the first of the others says.
        """
        promises = [self.runner.submit(action) for action in actions]
        done, at_the_cap = [], list[BudgetReached]()
        for promise in promises:
            try:
                done.append(promise.result())
            except BudgetReached as error:
                at_the_cap.append(error)
        if at_the_cap:
            raise BudgetReached("; ".join(str(error) for error in at_the_cap))
        self.outcomes += done
        return done

    def one(self, action: Action) -> Outcome:
        return self(action)[0]

    def read(self, artifact: Input) -> Any:
        """A JSON artifact's value; None while nobody has made it."""
        return self.runner.store.read_json(artifact) if isinstance(artifact, Ref) else None

    def read_table(self, artifact: Input, columns: Sequence[str]) -> dict[str, list[Any]] | None:
        """Columns of a Parquet artifact; None while nobody has made it."""
        if not isinstance(artifact, Ref):
            return None
        return read_table(self.runner.store.path(artifact), columns)
