"""What a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

Row = Sequence[str]
Html = NewType("Html", str)
"""Markup of ours, in which everything that others wrote is escaped. Plain text is `str`."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the page: words, then perhaps figures, then perhaps a table."""

    title: str
    words: str = ""
    header: Row = ()
    rows: Sequence[Row] = ()
    figures: Sequence[Html] = ()
    """They stand side by side where there is room."""
    under: bool = False
    """It belongs to the block before it."""
    folded: bool = False
    """Its table is opened by hand: a long one, for reference."""
    slot: str = ""
    """Its section stands between comments of this name, so that it can be filled in later."""


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(", ".join(names).rsplit(", ", 1))
