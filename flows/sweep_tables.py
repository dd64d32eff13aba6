"""A sweep's results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.summary import table
from lorapar_core.sweep_page import blocks


def sweep_tables(results: Mapping[str, Any]) -> str:
    """The tables of the page, but that of digests."""
    parts = [
        table(block.header, block.rows)
        for block in blocks(results, {})
        if block.rows and block.title != "Artifacts"
    ]
    return "\n\n".join(parts)
