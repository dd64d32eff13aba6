"""Checkpoints in the store: named after they are there, and gone when nobody names them."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from artifacts import CorruptObject, Record, Store, StoreError
from artifacts import store as store_module
from artifacts.objects import Objects

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def checkpoint(store: Store, key: str, step: int, **files: str) -> Path:
    source = store.scratch(key) / f"step-{step}"
    source.mkdir(exist_ok=True)
    for name, content in {"state": f"{key} {step}", **files}.items():
        (source / name).write_text(content)
    return source


def keep(store: Store, key: str, step: int, **files: str) -> None:
    source = checkpoint(store, key, step, **files)
    store.keep_checkpoint(key, source, step=step, writer={"host": "here"})


def publish(store: Store, key: str, **roles: str) -> Record:
    out = store.scratch(key) / "out"
    out.mkdir()
    for role, content in roles.items():
        (out / role).write_text(content)
    facts = {"stage": "sft", "name": "sft", "version": 1, "config": {}, "inputs": {}}
    return store.publish(out, key=key, **facts, provenance={})  # type: ignore[arg-type]


def objects(store: Store) -> set[str]:
    return {path.read_text() for path in (store.root / "cas").glob("*/*")}


def test_the_newest_comes_first_and_two_are_named(store: Store) -> None:
    assert store.checkpoints(KEY) == []
    for step in (1, 2, 3):
        keep(store, KEY, step)
    assert [found.step for found in store.checkpoints(KEY)] == [3, 2]
    newest = store.checkpoints(KEY)[0]
    assert newest.writer == {"host": "here"}
    assert (store.path(newest.ref) / "state").read_text() == f"{KEY} 3"


def test_scratch_is_linked_and_may_go(store: Store) -> None:
    keep(store, KEY, 1)
    source = store.scratch(KEY) / "step-1" / "state"
    assert source.stat().st_nlink == 2
    shutil.rmtree(store.root / "scratch")
    assert (store.path(store.checkpoints(KEY)[0].ref) / "state").read_text() == f"{KEY} 1"


def test_what_is_pushed_out_is_removed(store: Store) -> None:
    keep(store, KEY, 1)
    store.path(store.checkpoints(KEY)[0].ref)  # somebody reads it: there is a view
    for step in (2, 3):
        keep(store, KEY, step)
    assert f"{KEY} 1" not in objects(store)
    assert len(list((store.root / "cas").glob("*/*"))) == 4  # two files, two manifests
    assert list((store.root / "views").iterdir()) == []


def test_a_published_action_has_no_checkpoints(store: Store) -> None:
    keep(store, KEY, 1)
    record = publish(store, KEY, adapter="the end")
    assert store.checkpoints(KEY) == []
    assert objects(store) == {"the end"}
    assert store.lookup(KEY) == record


def test_what_something_else_names_stays(store: Store) -> None:
    """A record, its own or another's, and another action's checkpoint."""
    publish(store, OTHER, adapter="common")
    keep(store, KEY, 1, weights="common", mine="own", both="shared")
    keep(store, OTHER, 1, both="shared")
    record = publish(store, KEY, adapter="own")
    assert objects(store) >= {"common", "own", "shared"}
    assert f"{KEY} 1" not in objects(store)
    assert store.lookup(KEY) == record
    assert store.lookup(OTHER) is not None
    assert [found.step for found in store.checkpoints(OTHER)] == [1]
    assert (store.path(store.checkpoints(OTHER)[0].ref) / "both").read_text() == "shared"


def test_a_corrupt_newest_does_not_push_out_the_whole_one_before(store: Store) -> None:
    for step in (7, 8):
        keep(store, KEY, step)
    newest = store.checkpoints(KEY)[0].ref
    (store.root / "cas" / newest.digest[:2] / newest.digest).unlink()
    store.keep_checkpoint(KEY, checkpoint(store, KEY, 8, again="yes"), step=8, writer={})
    assert [found.step for found in store.checkpoints(KEY)] == [8, 7]
    for found in store.checkpoints(KEY):
        store.path(found.ref)


def test_what_is_being_published_is_not_removed_before_it_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's checkpoint with the same file goes between an object and the record that names it:
    whoever removes waits."""
    keep(store, OTHER, 1, both="the same")
    writing = store_module.write_record
    removed: list[threading.Thread] = []

    def slowly(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        other = Store.open(store.root)
        thread = threading.Thread(target=lambda: publish(other, OTHER, adapter="of another"))
        thread.start()
        removed.append(thread)
        thread.join(0.5)
        return writing(*arguments, **named)

    monkeypatch.setattr(store_module, "write_record", slowly)
    record = publish(store, KEY, figures="the same")
    removed[0].join(10)
    assert not removed[0].is_alive()
    assert store.checkpoints(OTHER) == []
    assert store.lookup(KEY) == record
    assert store.path(record.outputs["figures"]).read_text() == "the same"


def test_checkpoints_that_cannot_be_removed_fail_no_publication(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(store, KEY, 1)

    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Objects, "remove", refuse)
    record = publish(store, KEY, adapter="the end")
    assert store.lookup(KEY) == record
    assert "checkpoints of" in caplog.text
    assert "Input/output error" in caplog.text


def test_the_same_checkpoint_again_is_one(store: Store) -> None:
    keep(store, KEY, 1)
    store.keep_checkpoint(KEY, store.scratch(KEY) / "step-1", step=1, writer={"host": "there"})
    (found,) = store.checkpoints(KEY)
    assert found.writer == {"host": "there"}
    store.path(found.ref)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"checkpoints": [{"step": 1}]}'])
def test_a_torn_document_names_none(store: Store, text: str) -> None:
    keep(store, KEY, 1)
    (store.root / "progress" / f"{KEY}.json").write_text(text)
    assert store.checkpoints(KEY) == []
    keep(store, KEY, 2)
    assert [found.step for found in store.checkpoints(KEY)] == [2]


def test_a_corrupt_one_is_never_given(store: Store) -> None:
    keep(store, KEY, 1)
    ref = store.checkpoints(KEY)[0].ref
    members = json.loads((store.root / "cas" / ref.digest[:2] / ref.digest).read_text())
    digest = members["state"]["digest"]
    path = store.root / "cas" / digest[:2] / digest
    path.chmod(0o644)
    path.write_text("something else")
    with pytest.raises(CorruptObject):
        store.path(ref)


def test_one_that_is_gone_meanwhile_is_told_from_a_store_that_is(store: Store) -> None:
    keep(store, KEY, 1)
    source = checkpoint(store, KEY, 2)
    shutil.rmtree(source)
    with pytest.raises(FileNotFoundError):
        store.keep_checkpoint(KEY, source, step=2, writer={})
    assert [found.step for found in store.checkpoints(KEY)] == [1]
    source = checkpoint(store, KEY, 3)
    store.root.rename(store.root.with_name("away"))
    with pytest.raises(StoreError, match="it has gone away, or another lies in its place"):
        store.keep_checkpoint(KEY, source, step=3, writer={})
    store.root.mkdir()  # as a mount point is left behind
    with pytest.raises(StoreError, match="it has gone away, or another lies in its place"):
        store.keep_checkpoint(KEY, source, step=3, writer={})


def test_a_store_that_goes_away_in_the_middle_is_not_begun_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was looked at, and before it is written to: nothing appears in its place."""
    source = tmp_path / "elsewhere"
    source.mkdir()
    (source / "state").write_text("of step 1")
    monkeypatch.setattr(Store, "_require_writable", lambda *_: None)
    store.root.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="see to the disk"):
        store.keep_checkpoint(KEY, source, step=1, writer={})
    with pytest.raises(OSError, match="No such file"), store.lock(KEY):
        pass
    assert not store.root.exists()


def test_only_a_store_that_may_be_written(store: Store) -> None:
    keep(store, KEY, 1)
    reader = Store.open(store.root, create=False)
    assert [found.step for found in reader.checkpoints(KEY)] == [1]
    with pytest.raises(StoreError, match="cannot keep a checkpoint"):
        reader.keep_checkpoint(KEY, store.root, step=2, writer={})
    with pytest.raises(StoreError, match="64 hex"):
        store.checkpoints("short")
