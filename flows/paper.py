"""The paper's tables: each cell is a recipe, what it changes there, and what the paper got.

A cell's name stands wherever a recipe's does (`table4/gsm8k/pissa+rl`). The table is data,
`deployments/paper_tables.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from flows.places import DEPLOYMENTS, RECIPES
from lorapar_core.config import Recipe, Section
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import did_you_mean, load_recipe, merge

TABLES = DEPLOYMENTS / "paper_tables.yaml"
_MEASURED = {"gsm8k": "GSM8K", "mmlu": "MMLU", "humaneval": "HumanEval"}


class Cell(Section):
    """One run of a table."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Sparse sections, as `--set` changes them."""
    figures: dict[str, float] = Field(min_length=1)
    """Training stage, or `base` -> the paper's accuracy after it (%)."""
    active: float | None = Field(default=None, ge=0, le=100)
    """The paper's share of elements that train (%)."""
    teachers: str = ""
    """Whom the paper asked, where it tells and our recipe asks others."""


class Group(Section):
    """A table, or the part of one with the same recipe."""

    title: str
    recipe: str
    measured: Literal["gsm8k", "mmlu", "humaneval"]
    """What the paper's accuracies are of."""
    set: dict[str, Any] = Field(default_factory=dict)
    """What all its cells change."""
    cells: dict[str, Cell]


@cache
def groups(path: Path = TABLES) -> Mapping[str, Group]:
    """Every group by its name (`table1`, `table4/dolly`)."""
    fields = yaml.safe_load(path.read_text())
    return {name: Group.model_validate(group) for name, group in fields.items()}


def cells() -> dict[str, tuple[Group, Cell]]:
    """Every cell by its name, group and cell joined."""
    return {
        f"{name}/{part}": (group, cell)
        for name, group in groups().items()
        for part, cell in group.cells.items()
    }


def is_cell(source: str | Path) -> bool:
    """Whether it is written like a cell's name: no file, and not a recipe's."""
    written = re.match(r"table\d", str(source)) is not None
    return written and Path(source).suffix not in (".yaml", ".yml")


def recipe_of(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A cell's recipe, or that of a shipped name or YAML file.

    Raises:
        ConfigError: no such cell or recipe, or as `load_recipe` says.
    """
    if not is_cell(source):
        return load_recipe(source, recipes=RECIPES, overrides=overrides)
    group, cell = _found(str(source))
    changed = merge(merge(group.set, cell.set), overrides or {})
    named = {"name": str(source).replace("/", "-").replace("+", "-and-"), **changed}
    return load_recipe(group.recipe, recipes=RECIPES, overrides=named)


def _found(name: str) -> tuple[Group, Cell]:
    known = cells()
    if name not in known:
        raise ConfigError(
            f"no cell {name!r} in the paper's tables{did_you_mean(name, known)}; `lorapar recipes "
            "--paper` lists them"
        )
    return known[name]


def paper_line(source: str | Path) -> str:
    """What the paper got in this cell, for people; empty for any other recipe."""
    if not is_cell(source):
        return ""
    group, cell = _found(str(source))
    return f"the paper, on {_MEASURED[group.measured]}: {_figures(cell)}{_asked(cell)}"


def rows() -> list[tuple[str, str, str, str]]:
    """Cell, recipe, what the paper measured, and its figures: as a table for people."""
    return [
        (name, group.recipe, _MEASURED[group.measured], _figures(cell) + _asked(cell))
        for name, (group, cell) in cells().items()
    ]


def _figures(cell: Cell) -> str:
    said = (
        f"{'before training' if after == 'base' else f'after {after.upper()}'} {accuracy:g} %"
        for after, accuracy in cell.figures.items()
    )
    return ", ".join(said)


def _asked(cell: Cell) -> str:
    return f" (it asked {cell.teachers})" if cell.teachers else ""
