"""Turn votes into labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorapar_core.config import Recipe
from tasks.action import Action, Outcome


def tally(recipe: Recipe, *, votes: Mapping[str, Sequence[Outcome]]) -> Action:
    """`votes`: teacher -> the outcomes of its shards, in order."""
    return Action(
        "tally",
        "tally",
        config={
            "teachers": {teacher.name: teacher.calibration for teacher in recipe.teachers},
            "tie": recipe.voting.tie,
            "quorum": recipe.voting.quorum,
        },
        inputs={
            f"votes/{teacher}/{k:06}": outcome["votes.parquet"]
            for teacher, shards in votes.items()
            for k, outcome in enumerate(shards)
        },
    )
