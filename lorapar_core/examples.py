"""Which examples a stage reads, in which order, and as which tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from lorapar_core.parquet import read_table


def seeded_order(ids: Iterable[str], *, seed: int) -> list[str]:
    """`ids` in an order that depends on the seed and each id alone."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())


def system_ids(labels: Path, system: int | str) -> list[str]:
    """Ids of the examples labelled `system` (1, 2, or "all")."""
    table = read_table(labels, ["example_id", "system"])
    rows = zip(table["example_id"], table["system"], strict=True)
    return [i for i, label in rows if system in ("all", label)]


def token_rows(tokens: Path, *, form: str) -> dict[str, tuple[list[int], list[int]]]:
    """Example id -> (prompt ids, answer ids) of one format."""
    table = read_table(tokens, ["example_id", "format", "prompt_ids", "answer_ids"])
    rows = zip(*table.values(), strict=True)
    return {i: (prompt, answer) for i, kind, prompt, answer in rows if kind == form}
