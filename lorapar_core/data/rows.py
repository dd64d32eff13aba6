"""Rows of a data file, one at a time, each with the place it stands at.

JSON Lines, JSON (a list, or `{"data": [...]}`), CSV with a header, and Parquet; each also gzipped.
A place is the 1-based line where the row begins (JSON Lines, CSV), or else its 1-based number. A
row that can't be read is an error that names the file and that place, never a row left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lorapar_core.errors import DataError

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]

_LONGEST_FIELD = 2**31 - 1


def read_rows(path: Path) -> Rows:
    """Yield (place, row) for every row of the file.

    Raises:
        DataError: no such file, a kind of file not known, or a malformed row.
    """
    reader = _READERS.get(suffix(path.name))
    if reader is None:
        raise DataError(
            f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}, each also with .gz"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with _opened(path) as stream:
            yield from reader(stream, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from error


def suffix(name: str) -> str:
    """The file name's ending that tells its kind, without .gz: ".jsonl" of "a.JSONL.gz"."""
    return Path(name.lower().removesuffix(".gz")).suffix


def unit(path: Path) -> str:
    """What a place in this file counts: lines, or rows where a row may span several, or has none.

    >>> unit(Path("a.jsonl.gz")), unit(Path("a.parquet"))
    ('line', 'row')
    """
    return "line" if suffix(path.name) in (".jsonl", ".csv") else "row"


def _opened(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(gzip.open(path, "rb"))
    return path.open("rb")


def _text(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: expected a JSON object with the row's fields, found {type(value).__name__}"
        )
    return value


def _read_jsonl(stream: BinaryIO, path: Path) -> Rows:
    for number, raw in enumerate(stream, start=1):
        place = f"{path} line {number}"
        line = _text(raw, place).strip()
        if not line:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: expected one JSON object, but {error}") from error
        yield number, _object(value, place)


def _read_json(stream: BinaryIO, path: Path) -> Rows:
    try:
        document = json.loads(_text(stream.read(), str(path)))
    except json.JSONDecodeError as error:
        hint = "; if each line is an object, name the file .jsonl" if error.lineno > 1 else ""
        raise DataError(
            f"{path} line {error.lineno}: expected a JSON list of rows, but {error.msg}{hint}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON list of rows, but {error}") from error
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected a JSON list of rows, or {{"data": [...]}}')
    for number, value in enumerate(rows, start=1):
        yield number, _object(value, f"{path} row {number}")


def _read_csv(stream: BinaryIO, path: Path) -> Rows:
    csv.field_size_limit(_LONGEST_FIELD)
    lines = (_text(raw, f"{path} line {number}") for number, raw in enumerate(stream, start=1))
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for fields in reader:
            place, number = f"{path} line {begins}", begins
            begins = reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = _header(fields, place)
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{place}: {len(fields)} fields, the header has {len(header)}; put quotes "
                    "around fields that hold commas or line breaks"
                )
            yield number, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{path} line {begins}: malformed CSV ({error})") from error


def _header(fields: list[str], place: str) -> list[str]:
    names = [name.strip() for name in fields]
    if "" in names or len(set(names)) != len(names):
        raise DataError(f"{place}: expected a header of distinct names, found {names}")
    return names


def _read_parquet(stream: BinaryIO, path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    source = io.BytesIO(stream.read()) if path.name.lower().endswith(".gz") else stream
    try:
        with pq.ParquetFile(source) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise DataError(f"{path} row {number + 1}: damaged Parquet file ({error})") from error


_READERS: dict[str, Callable[[BinaryIO, Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
