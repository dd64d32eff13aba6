"""A runner that looks every action up and runs none, and what can be read of what it has found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from artifacts import Ref, Store
from flows.pipeline import expected_entries
from lorapar_core.benchmark import read_benchmark
from lorapar_core.config import Recipe
from lorapar_core.data.benchmark_sets import Shown, gather
from lorapar_core.parquet import read_table
from lorapar_core.teachers.ballot import Question
from tasks.action import Action, External, Outcome
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
            action.name, action.stage, action.key, "missing", 0.0, {}, action.expected
        )
        self.actions.append((action, outcome))
        return _Known(outcome)


def missing_of(runner: PlanRunner) -> list[Action]:
    return [action for action, outcome in runner.actions if outcome.action == "missing"]


def prepared(runner: PlanRunner) -> Outcome:
    return next(outcome for _, outcome in runner.actions if outcome.stage == "prepare")


def tokens_of(runner: PlanRunner) -> Path | None:
    """The table of tokens, where `prepare` is cached."""
    table = prepared(runner)["tokens.parquet"]
    return runner.store.path(table) if isinstance(table, Ref) else None


def benchmarks_of(recipe: Recipe, runner: PlanRunner) -> dict[str, Shown]:
    """The benchmarks that a run has read, or that are files, by label."""
    read = {action.name: (action, outcome) for action, outcome in runner.actions}
    found = {}
    for label in (config.label for config in recipe.evaluation.benchmarks):
        action, outcome = read[f"benchmark[{label}]"]
        problems, told = (outcome[role] for role in ("problems.parquet", "benchmark.json"))
        files = {r: one.path for r, one in action.inputs.items() if isinstance(one, External)}
        sets = {role for role in ("set", "shots_set") if action.config[role]}
        if isinstance(problems, Ref) and isinstance(told, Ref):
            found[label] = read_benchmark(runner.store.path(problems), runner.store.path(told))
        elif all(files.get(role) for role in sets):
            found[label] = gather(action.config, {role: p for role, p in files.items() if p})
    return found


def examples_of(recipe: Recipe, runner: PlanRunner) -> dict[str, Question]:
    """The training examples, those of a file also before `prepare`; none while nobody has them."""
    table = prepared(runner)["examples.parquet"]
    if isinstance(table, Ref):
        columns = read_table(runner.store.path(table), ["id", "prompt", "answer"])
        return {row[0]: Question(*row) for row in zip(*columns.values(), strict=True)}
    return {
        entry.id: Question(entry.id, entry.example.prompt, entry.example.answer)
        for entry in expected_entries(recipe, runner)
    }
