"""Tables: the same rows give the same bytes, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lorapar_core.parquet import read_table, write_table

SCHEMA = pa.schema(
    [("id", pa.string()), ("ids", pa.list_(pa.int32())), ("x", pa.float64())],
    metadata={"made": "today"},
)
ROWS = {"id": ["a", "b", "é😀"], "ids": [[1, 2], [], [3]], "x": [0.1, None, -2.0]}


def test_rows_come_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", ROWS, SCHEMA)
    assert read_table(tmp_path / "t.parquet") == ROWS
    assert list(read_table(tmp_path / "t.parquet", ["x", "id"])) == ["x", "id"]


def test_bytes_depend_on_rows_and_schema_alone(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", ROWS, SCHEMA)
    reordered = dict(reversed(list(ROWS.items())))
    write_table(tmp_path / "b.parquet", reordered, SCHEMA.remove_metadata())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_no_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", {name: [] for name in SCHEMA.names}, SCHEMA)
    assert read_table(tmp_path / "t.parquet") == {"id": [], "ids": [], "x": []}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"]}, "the schema has"),
        ({**ROWS, "more": [1, 2, 3]}, "the schema has"),
        ({**ROWS, "x": [1.0]}, "different lengths"),
        ({**ROWS, "ids": [[2**31], [], []]}, "t.parquet"),
        ({**ROWS, "id": [1, 2, 3]}, "t.parquet"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "t.parquet", columns, SCHEMA)
    assert not list(tmp_path.iterdir())


def test_an_absent_column_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", ROWS, SCHEMA)
    with pytest.raises(KeyError, match="no column 'y'"):
        read_table(tmp_path / "t.parquet", ["id", "y"])


def test_a_path_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "split=train"
    folder.mkdir()
    write_table(folder / "t.parquet", ROWS, SCHEMA)
    assert set(read_table(folder / "t.parquet")) == set(ROWS)
