"""Files of rows: every kind gives the same rows, and a bad row is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from lorapar_core.data.rows import read_rows
from lorapar_core.errors import DataError
from lorapar_core.parquet import write_table

ROWS = [
    {"question": 'Who, "me"?', "answer": "line one\nline two"},
    {"question": "ünïcode 😀\u2028", "answer": "2"},
]


def _jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS) + "\n", "utf-8")


def _json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1), "utf-8")


def _json_data(path: Path) -> None:
    path.write_text(json.dumps({"data": ROWS, "version": 1}), "utf-8")


def _csv(path: Path) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)


def _parquet(path: Path) -> None:
    schema = pa.schema([("question", pa.string()), ("answer", pa.string())])
    write_table(path, {name: [row[name] for row in ROWS] for name in schema.names}, schema)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", _jsonl),
        ("ROWS.JSONL", _jsonl),
        ("rows.json", _json),
        ("data.json", _json_data),
        ("rows.csv", _csv),
        ("rows.parquet", _parquet),
    ],
)
def test_every_kind_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path], None], zipped: bool
) -> None:
    path = tmp_path / name
    write(path)
    if zipped:
        plain = path.read_bytes()
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(plain))
    assert [row for _, row in read_rows(path)] == ROWS


def test_places_are_those_an_editor_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [place for place, _ in read_rows(path)] == [1, 3]
    path = tmp_path / "a.csv"
    path.write_text('a,b\n"1\n1",x\n2,y\n')
    assert [place for place, _ in read_rows(path)] == [2, 4]


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert [row for _, row in read_rows(path)] == [{"a": 1}, {"a": 2}]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "x" * 200_000 + ",y\n")
    assert len(next(read_rows(path))[1]["a"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a\.jsonl line 2: expected one JSON object"),
        ("a.jsonl", b"[1]\n", r"line 1: expected a JSON object .* found list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2: not UTF-8"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1: expected one JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1: expected one JSON object"),
        ("a.json", b'[{"a": 1},', "expected a JSON list"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', r"name the file \.jsonl"),
        ("a.json", b'{"rows": []}', r'"data": \[\.\.\.\]'),
        ("a.json", b'[{"a": 1}, 2]', "row 2: expected a JSON object"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields, the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "line 1: expected a header of distinct names"),
        ("a.csv", b'a,b\n"1,2\n', "line 2: malformed CSV"),
        ("a.parquet", b"PAR1 this is none", "damaged Parquet"),
        ("a.jsonl.gz", b"no gzip", "damaged gzip"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000)[:-20], "damaged gzip"),
        ("a.txt", b"", r"expected \.jsonl, \.json, \.csv, \.parquet"),
        ("a.gz", b"", "unknown kind of file"),
    ],
)
def test_what_can_not_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(read_rows(path))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        list(read_rows(tmp_path / "none.jsonl"))
