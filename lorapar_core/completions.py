"""Every completion that GRPO rewarded, in order, with each reward: `completions.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorapar_core import ranks
from lorapar_core.parquet import read_table, write_table

FILE = "completions.parquet"


class Completions:
    """Gathers them, step by step."""

    def __init__(self, rewards: Sequence[str]) -> None:
        """`rewards` names those that each completion gets."""
        self._schema = pa.schema(
            [("step", pa.int32()), ("example_id", pa.string()), ("completion", pa.string())]
            + [(_column(name), pa.float64()) for name in rewards]
        )
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}

    def add(self, *, step: int, example_ids: Sequence[str], completions: Sequence[str]) -> None:
        """Completions that were made after `step` optimizer steps."""
        self._columns["step"] += [step] * len(completions)
        self._columns["example_id"] += example_ids
        self._columns["completion"] += completions

    def reward(self, name: str, values: Sequence[float]) -> None:
        """What the completions added last are worth by the reward `name`."""
        self._columns[_column(name)] += values

    def collect(self) -> None:
        """Rank 0 takes the others' too, in the order of steps; within one, of ranks."""
        others = ranks.gather(self._columns)
        columns = {name: [v for c in others for v in c[name]] for name in self._columns}
        order = sorted(range(len(columns["step"])), key=columns["step"].__getitem__)
        self._columns = {name: [column[k] for k in order] for name, column in columns.items()}

    def save(self, folder: Path) -> None:
        """Write `completions.parquet`."""
        write_table(folder / FILE, self._columns, self._schema)

    def load(self, folder: Path) -> None:
        """Begin with those in `completions.parquet`."""
        self._columns = read_table(folder / FILE, self._schema.names)


def _column(reward: str) -> str:
    return f"reward_{reward}"
