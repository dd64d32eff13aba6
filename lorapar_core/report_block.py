"""What a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the page: words, then perhaps a table, then perhaps curves."""

    title: str
    words: str = ""
    header: Row = ()
    rows: Sequence[Row] = ()
    curves: tuple[Sequence[tuple[str, Sequence[float]]], str] | None = None


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
