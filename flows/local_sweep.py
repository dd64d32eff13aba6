"""`lorapar sweep`: a sweep's trials in this process, through resident children, a few at a time.

A trial that fails is reported at the end and harms no other; the same command again takes up only
what is missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from artifacts import Ref, Store, StoreError
from flows.healing import healing
from flows.local import LocalRunner, Say
from flows.pipeline import Result, pipeline
from flows.requirements import check, require_keys
from flows.sweep_summary import compared
from flows.sweeps import Sweep, Trial
from lorapar_core.errors import LoraparError
from lorapar_core.methods import expanded
from lorapar_core.recipe import merge
from tasks.action import Action, Outcome
from tasks.stage import look_up

RUNTIME = {"child": "resident", "children": 2, "threads": 1}
"""Many small stages side by side are done sooner than one after another with all threads each."""


def with_runtime(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides over `RUNTIME`, which lies over the recipe's own runtime."""
    return merge({"runtime": RUNTIME}, overrides)


def run_sweep(
    sweep: Sweep, trials: Sequence[Trial], *, store: Store, say: Say, command: str
) -> dict[str, Any]:
    """Carry out all trials and compare them; returns the summary. `command` makes the sweep again.

    Raises:
        ConfigError, ModelError, DataError: a trial that can be known to fail before any work.
        StageFailed: no trial has finished.
        LoraparError, StoreError: the comparison fails.
    """
    for trial in trials:
        check(trial.recipe)
        require_keys(expanded(trial.recipe), environment=os.environ, store=store)
    runtime = trials[0].recipe.runtime
    pool = ThreadPoolExecutor(runtime.children, thread_name_prefix="lorapar-trial")
    try:
        with LocalRunner(trials[0].recipe, store=store, say=say) as runner:
            try:
                return healing(lambda: _attempt(sweep, trials, runner, pool, say, command))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        pool.shutdown()  # after the runner: what its threads waited for has ended


def _attempt(
    sweep: Sweep,
    trials: Sequence[Trial],
    runner: LocalRunner,
    pool: ThreadPoolExecutor,
    say: Say,
    command: str,
) -> dict[str, Any]:
    progress = _Progress(len(trials), say)
    futures = [pool.submit(_carry_out, trial, runner, progress) for trial in trials]
    failed: dict[str, str] = {}
    for trial, future in zip(trials, futures, strict=True):
        if error := future.result():
            failed[trial.name] = error
    return compared(sweep, trials, failed, runner=runner, command=command)


def _carry_out(trial: Trial, runner: LocalRunner, progress: _Progress) -> str:
    """Run one trial; returns why it failed, or nothing."""
    try:
        one = _Trial(trial, runner, progress)
        result = healing(lambda: pipeline(trial.recipe, one))
    except (LoraparError, StoreError, OSError) as error:
        progress.ended(f"{trial.name}: failed: {error}")
        return str(error)
    progress.ended(f"{trial.name}: {_accuracy(result, runner.store)}")
    return ""


def _accuracy(result: Result, store: Store) -> str:
    after, outcome = list(result.evaluations.items())[-1]
    ref = outcome["metrics.json"]
    accuracy = store.read_json(ref)["strict"]["accuracy"] if isinstance(ref, Ref) else float("nan")
    return f"{100 * accuracy:.1f} % after {after}"


@dataclass
class _Progress:
    """Says how many trials have ended."""

    total: int
    say: Say
    done: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, line: str) -> None:
        with self.guard:
            self.done += 1
            self.say(f"[{self.done}/{self.total}] {line}")


@dataclass(frozen=True)
class _Trial:
    """A runner for one trial: what is cached is not worth a line, what is computed is named."""

    trial: Trial
    runner: LocalRunner
    progress: _Progress
    downloads: bool = True

    @property
    def store(self) -> Store:
        return self.runner.store

    def submit(self, action: Action) -> Future[Outcome]:
        found = look_up(action, self.store)
        if found is None:
            return self.runner.submit(action, say=self._say)
        done: Future[Outcome] = Future()
        done.set_result(found)
        return done

    def _say(self, line: str) -> None:
        self.progress.say(f"{self.trial.name}: {line}")
