"""Put a sweep's points beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.config import Recipe
from tasks.action import Action, Input


def results(
    recipe: Recipe,
    *,
    sweep: str,
    model: str,
    seeds: Sequence[int],
    points: Sequence[Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    calibrations: Mapping[str, str],
    exhibit: Mapping[str, Any],
    inputs: Mapping[str, Input],
) -> Action:
    """`inputs` hold what is there: a trial that did not finish has none. `calibrations` (teacher
    -> its calibration) are given where each example's true system is known and asked for.
    `exhibit`: the `trial` whose labels and regions the page shows, and its `recipe`; or nothing."""
    config = {
        "sweep": sweep,
        "recipe": recipe.name,
        "description": recipe.description,
        "model": model,
        "theta": recipe.partition.theta,
        "modules": recipe.lora.modules,
        "seeds": list(seeds),
        "points": list(points),
        "claims": list(claims),
        "calibrations": dict(calibrations),
        "exhibit": dict(exhibit),
    }
    return Action("sweep", f"sweep[{sweep}]", config=config, inputs=dict(inputs))
