"""Put what a run found on one page."""

from __future__ import annotations

from collections.abc import Mapping

from lorapar_core.config import Recipe
from tasks.action import Action, Input


def report(recipe: Recipe, *, model: str, inputs: Mapping[str, Input]) -> Action:
    identity = recipe.model_dump(mode="json", exclude={"runtime"})
    for teacher in identity["teachers"]:
        teacher.pop("api_key_env")
    return Action(
        "report", "report", config={"recipe": identity, "model": model}, inputs=dict(inputs)
    )
