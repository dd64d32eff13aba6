"""A file is replaced whole, or is as it was."""

import os
from pathlib import Path

import pytest

from artifacts.durable import temporary, write_whole


def test_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target, tmp = tmp_path / "record", tmp_path / "tmp"
    write_whole(target, b"old", tmp=tmp)
    write_whole(target, b"new", tmp=tmp)
    assert target.read_bytes() == b"new"
    assert list(tmp.iterdir()) == []


def test_bytes_and_name_reach_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, calls = tmp_path / "record", []
    for name in ("fsync", "replace"):
        genuine = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, call=genuine: (calls.append(name), call(*args))
        )
    write_whole(target, b"data", tmp=tmp_path / "tmp")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, tmp = tmp_path / "record", tmp_path / "tmp"
    write_whole(target, b"old", tmp=tmp)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, b"new", tmp=tmp)
    assert target.read_bytes() == b"old"
    assert list(tmp.iterdir()) == []


def test_temporary_names_are_unique(tmp_path: Path) -> None:
    assert len({temporary(tmp_path) for _ in range(100)}) == 100
