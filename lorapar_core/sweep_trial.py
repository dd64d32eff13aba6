"""The part of a sweep's page that shows one of its trials: importances, regions and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorapar_core.report_block import Block
from lorapar_core.report_labels import label_blocks
from lorapar_core.report_regions import region_blocks

MOST_OPEN = 8
"""Rows of a table that isn't folded: a sweep's page is long enough."""


def trial_blocks(name: str, recipe: Mapping[str, Any], told: Mapping[str, Any]) -> list[Block]:
    """`told`: `regions` and `profile`, `agreement` and `summary`, as far as the trial has them.

    `recipe`: the trial's, expanded and without runtime and paths.
    """
    parts: list[Block] = []
    if "regions" in told:
        parts += region_blocks(recipe, told["regions"], told.get("profile"))
    if "agreement" in told:
        parts += label_blocks(recipe, told["agreement"], told["summary"])
    head = Block("One trial's regions and labels", f"Of {name}.")
    under = [replace(part, under=True, folded=len(part.rows) > MOST_OPEN) for part in parts]
    return [head, *under] if parts else []
