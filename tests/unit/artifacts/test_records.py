"""A record comes back as it was written; one that is not whole counts as absent."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from artifacts import CorruptObject, MissingObject, Record, Ref, StoreError
from artifacts.records import read_record, read_records, write_record

KEY = "a" * 64
REF = Ref("d" * 64, 3, "file")


def record(**change: Any) -> Record:
    fields = {
        "key": KEY,
        "stage": "sft",
        "name": "sft[1]",
        "version": 1,
        "config": {"lr": 0.1, "layers": [1]},
        "inputs": {"examples": "c" * 64},
        "outputs": {"adapter": REF},
        "provenance": {"commit": None},
    }
    return Record(**{**fields, **change})


def test_round_trip(tmp_path: Path) -> None:
    written = write_record(tmp_path, record(config={"layers": (1, 2)}), tmp=tmp_path / "tmp")
    assert written.config == {"layers": [1, 2]}
    assert read_record(tmp_path, KEY) == written
    assert list(read_records(tmp_path)) == [written]


def test_absent_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path / "nowhere", KEY) is None
    assert list(read_records(tmp_path / "nowhere")) == []


def test_every_truncation_is_absent(tmp_path: Path) -> None:
    write_record(tmp_path, record(), tmp=tmp_path / "tmp")
    path = tmp_path / f"{KEY}.json"
    data = path.read_bytes().rstrip()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert read_record(tmp_path, KEY) is None


@pytest.mark.parametrize("field", ["key", "stage", "outputs", "inputs", "config", "provenance"])
@pytest.mark.parametrize("value", [None, 3, [1]])
def test_a_record_of_wrong_types_is_absent(tmp_path: Path, field: str, value: Any) -> None:
    document = {**record().to_json(), field: value}
    (tmp_path / f"{KEY}.json").write_text(json.dumps(document))
    assert read_record(tmp_path, KEY) is None


def test_a_record_under_another_key_is_absent(tmp_path: Path) -> None:
    write_record(tmp_path, record(), tmp=tmp_path / "tmp")
    (tmp_path / f"{KEY}.json").rename(tmp_path / f"{'b' * 64}.json")
    assert read_record(tmp_path, "b" * 64) is None


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    written = write_record(tmp_path, record(), tmp=tmp_path / "tmp")
    (tmp_path / "notes.json").write_text("{}")
    assert list(read_records(tmp_path)) == [written]


@pytest.mark.parametrize("change", [{"provenance": {"loss": math.nan}}, {"config": {"x": {1}}}])
def test_what_cannot_be_encoded_is_named(tmp_path: Path, change: Any) -> None:
    with pytest.raises(StoreError, match=r"\$\.(provenance\.loss|config\.x)"):
        write_record(tmp_path, record(**change), tmp=tmp_path / "tmp")


@pytest.mark.parametrize(
    "fields",
    [
        {"digest": "d" * 63, "size": 3, "kind": "file"},
        {"digest": "d" * 64, "size": -1, "kind": "file"},
        {"digest": "d" * 64, "size": True, "kind": "file"},
        {"digest": "d" * 64, "size": 3, "kind": "link"},
        {"digest": "d" * 64, "size": 3},
        {"digest": "d" * 64, "size": 3, "kind": "file", "mode": 1},
    ],
)
def test_refs_out_of_bounds_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(StoreError):
        Ref.from_json(fields)


def test_refs_come_back() -> None:
    assert Ref.from_json(REF.to_json()) == REF


@pytest.mark.parametrize(
    "error", [CorruptObject(KEY, "it is short"), MissingObject(KEY, "/store"), StoreError("x")]
)
def test_errors_cross_processes(error: StoreError) -> None:
    """A child process reports its error by pickling it."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
