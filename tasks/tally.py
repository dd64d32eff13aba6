"""Turn votes into labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorapar_core.config import Recipe
from tasks.action import Action, Input, Outcome


def tally(recipe: Recipe, *, votes: Mapping[str, Sequence[Outcome]], examples: Input) -> Action:
    """`votes`: teacher -> the outcomes of its rounds, in order."""
    voting = recipe.voting
    random = {"seed": voting.seed} if voting.labels == "random" else {}
    return Action(
        "tally",
        "tally",
        config={
            "teachers": {teacher.name: teacher.calibration for teacher in recipe.panel},
            "judge": {teacher.name: teacher.calibration for teacher in [recipe.judge] if teacher},
            "tie": voting.tie,
            "quorum": voting.quorum,
            "abstentions": voting.abstentions,
            "aggregate": voting.aggregate,
            "curtailed": voting.curtailed,
            "labels": voting.labels,
            **random,
        },
        inputs={
            "examples": examples,
            **{
                f"votes/{teacher}/{k:06}": outcome["votes.parquet"]
                for teacher, rounds in votes.items()
                for k, outcome in enumerate(rounds)
            },
        },
    )
