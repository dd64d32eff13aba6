"""Tell both importances in brief, for the report."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.action import Action, Outcome


def profile(*, scores: Mapping[int, Outcome]) -> Action:
    """The profile of each system's outcome of `score`; of no theta, so that another theta takes
    the same one."""
    inputs = {
        f"importance/{system}": outcome["importance.safetensors"]
        for system, outcome in scores.items()
    }
    return Action("profile", "profile", config={}, inputs=inputs)
