"""What can be known of a recipe's rewards before any work.

A user's module is tried in a process of its own, which may import what it likes: this one imports
nothing heavy, and nobody's code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

from lorapar_core.config import Recipe
from lorapar_core.data.sources import is_named
from lorapar_core.errors import ConfigError
from lorapar_core.sandbox import require_sandbox


def require_rewards(recipe: Recipe, *, runs: bool) -> None:
    """Refuse rewards that a GRPO stage could not use. A plan (`runs` false) starts no process.

    Raises:
        ConfigError: one can't be imported or called as a reward is, the data has no tests for it,
            or code can't be run apart from the rest of the machine.
    """
    if all(stage.kind != "grpo" for stage in recipe.stages):
        return
    used = {name for name, weight in recipe.grpo.rewards.items() if weight}
    has_tests = "tests" in recipe.data.columns and not is_named(recipe.data.source)
    if "execution" in used and not has_tests:
        raise ConfigError(
            "the reward execution runs each row's tests, which only data of your own can have; "
            "name their column in data.columns.tests, or use the reward code"
        )
    if not runs:
        return
    _require_importable(sorted(name for name in used if ":" in name))
    if has_tests and used & {"code", "execution"}:
        require_sandbox(recipe.runtime.sandbox)


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
    if done.returncode:
        said = (done.stdout.splitlines() or [""])[-1]
        died = f"importing {', '.join(paths)} ended the process with {done.returncode}"
        raise ConfigError(said or died)
