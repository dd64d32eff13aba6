"""`lorapar run`: the pipeline in threads of this process, without Prefect and without a server."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from artifacts import Store
from flows.headline import headline
from lorapar_core.config import Recipe
from tasks.action import Action, Outcome
from tasks.children import Children
from tasks.stage import look_up, perform

Say = Callable[[str], None]


class LocalRunner:
    """Runs actions in threads; heavy ones in child processes. Close it to end them."""

    downloads = True

    def __init__(self, recipe: Recipe, *, store: Store, say: Say) -> None:
        self.store = store
        self._runtime = recipe.runtime
        self._say = say
        self._children = Children(recipe.runtime, recipe.teachers)
        self._threads = ThreadPoolExecutor(32, thread_name_prefix="lorapar-stage")

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=error is None, cancel_futures=True)
        self._children.close()

    def submit(self, action: Action, *, say: Say | None = None) -> Future[Outcome]:
        """`say` takes what is told of this action, in place of the runner's own."""
        say = say or self._say
        found = look_up(action, self.store)
        if found:
            say(f"{action.name:<24} cached")
            done: Future[Outcome] = Future()
            done.set_result(found)
            return done
        return self._threads.submit(self._perform, action, say)

    def _perform(self, action: Action, say: Say) -> Outcome:
        outcome = perform(
            action,
            store=self.store,
            children=self._children,
            runtime=self._runtime,
            listen=_Teller(action.name, say),
        )
        say(f"{action.name:<24} {outcome.action:<9} {outcome.seconds:8.1f} s")
        return outcome


class _Teller:
    """Tells a person about a stage under way: progress at most every few seconds, and warnings."""

    every_s = 5.0

    def __init__(self, name: str, say: Say) -> None:
        self._name = name
        self._say = say
        self._last = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "progress":
            self._progress(event)
        elif event["level"] >= logging.WARNING:
            self._say(f"{self._name:<24} {event['logger']}: {event['message']}")

    def _progress(self, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last < self.every_s:
            return
        self._last = now
        shown = "  ".join(f"{k} {v:.4g}" for k, v in headline(event).items())
        self._say(f"{self._name:<24} {event['step']}/{event['total']}  {shown}")


def say_on_stderr(line: str) -> None:
    print(line.rstrip(), file=sys.stderr, flush=True)
