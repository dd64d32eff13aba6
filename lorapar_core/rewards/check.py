"""What can be known of a recipe's rewards before any work.

A user's module is tried in a process of its own, which may import what it likes: this one imports
nothing heavy, and nobody's code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lorapar_core.config import Recipe
from lorapar_core.data.choice import placed_examples
from lorapar_core.data.sources import Source, is_named
from lorapar_core.errors import ConfigError, DataError
from lorapar_core.row_tests import held_tests
from lorapar_core.sandbox import require_sandbox

IMPORTABLE = "all rewards can be imported"


def require_rewards(recipe: Recipe, *, runs: bool) -> None:
    """Refuse rewards that a GRPO stage could not use. A plan (`runs` false) starts no process.

    Raises:
        ConfigError: one can't be imported or called as a reward is, the data has no tests for it,
            or tests that it can't use, or code can't be run apart from the rest of the machine.
    """
    used = _used(recipe)
    has_tests = "tests" in recipe.data.columns and not is_named(recipe.data.source)
    if "execution" in used and not has_tests:
        raise ConfigError(
            "the reward execution runs each row's tests, which only data of your own can have; "
            "name their column in data.columns.tests, or use the reward code"
        )
    comparing = sorted(used & {"correctness", "free_form"})
    if comparing and has_tests:
        raise ConfigError(
            f"the reward {comparing[0]} compares with a row's answer, which a row that carries "
            "tests doesn't keep; use code or execution, or leave out data.columns.tests"
        )
    if not runs:
        return
    _require_importable(sorted(name for name in used if ":" in name))
    if has_tests and used & {"code", "execution"}:
        require_sandbox(recipe.runtime.sandbox)


def require_rewardable(recipe: Recipe, source: Source, path: Path) -> None:
    """Refuse a file of training rows that a reward would fail on in the middle of training.

    Raises:
        DataError: a row carries no tests, and which, where `execution` runs them.
    """
    if "execution" not in _used(recipe):
        return
    for place, example in placed_examples(source, path):
        if held_tests(example.reference) is None:
            raise DataError(
                f"{place}: the row carries no tests, which the reward execution runs; give it "
                "some, remove it, or use the reward code"
            )


def _used(recipe: Recipe) -> set[str]:
    """Rewards that a stage will ask for."""
    if all(stage.kind != "grpo" for stage in recipe.stages):
        return set()
    return {name for name, weight in recipe.grpo.rewards.items() if weight}


def _require_importable(paths: Iterable[str]) -> None:
    paths = list(paths)
    if not paths:
        return
    done = subprocess.run(
        [sys.executable, "-m", "lorapar_core.rewards", *paths],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = (done.stdout.splitlines() or [""])[-1]
    if done.returncode or said != IMPORTABLE:
        died = f"importing {', '.join(paths)} ended the process with {done.returncode}"
        raise ConfigError(said or died)
