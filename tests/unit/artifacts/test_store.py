"""The promises of the store as a whole: complete or absent, found by digest, safe to open."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts import CorruptObject, MissingObject, Record, Ref, Store, StoreError

KEY = "a" * 64
OTHER_KEY = "b" * 64
TREE = {"metrics.json": b'{"loss": 0.5}', "adapter/config.json": b"{}", "adapter/model": b"weights"}


def snapshot(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in root.rglob("*"))


def test_publish_then_lookup(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    record = publish(tree(TREE))
    assert store.lookup(KEY) == record
    assert {role: ref.kind for role, ref in record.outputs.items()} == {
        "metrics.json": "file",
        "adapter": "dir",
    }
    assert record.outputs["adapter"].size == 9
    assert store.read_json(record.outputs["metrics.json"]) == {"loss": 0.5}
    adapter = store.path(record.outputs["adapter"])
    assert (adapter / "model").read_bytes() == b"weights"
    assert list((store.root / "tmp").iterdir()) == []


def test_an_unknown_key_is_a_miss(store: Store) -> None:
    assert store.lookup(KEY) is None


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: os.truncate(path, 1)])
@pytest.mark.parametrize("data", [b"weights", b'{"loss": 0.5}'])
def test_a_missing_or_short_object_is_a_miss(
    store: Store,
    publish: Callable[..., Record],
    tree: Callable[..., Path],
    change: Any,
    data: bytes,
) -> None:
    publish(tree(TREE))
    (path,) = (path for path in (store.root / "cas").glob("*/*") if path.read_bytes() == data)
    path.chmod(0o644)
    change(path)
    assert store.lookup(KEY) is None
    record = publish(tree(TREE))
    assert store.lookup(KEY) == record
    for ref in record.outputs.values():
        store.path(ref)
    assert path.read_bytes() == data


def test_a_damaged_manifest_is_a_miss_and_is_repaired(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    record = publish(tree(TREE))
    digest = record.outputs["adapter"].digest
    path = store.root / "cas" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"model", b"mODEL"))
    assert store.lookup(KEY) is None
    assert publish(tree(TREE)) == record
    assert store.lookup(KEY) == record


def test_same_size_damage_is_found_on_first_read(
    store: Store,
    publish: Callable[..., Record],
    tree: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = publish(tree(TREE))
    ref = record.outputs["metrics.json"]
    path = store.path(ref)
    path.chmod(0o644)
    path.write_bytes(b'{"loss": 0.4}')
    assert store.lookup(KEY) == record
    with caplog.at_level(logging.WARNING), pytest.raises(CorruptObject):
        store.read_json(ref)
    assert len(caplog.records) == 1
    assert store.lookup(KEY) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is empty"),
        ({".hidden": b""}, "'.hidden'"),
        ({"a b": b""}, "'a b'"),
        ({"adapter/é": b""}, "'é'"),
    ],
)
def test_sources_that_are_refused(
    store: Store,
    publish: Callable[..., Record],
    tmp_path: Path,
    tree: Callable[..., Path],
    files: dict[str, bytes],
    message: str,
) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(StoreError, match=message):
        publish(tree(files))
    assert store.lookup(KEY) is None


def test_links_are_refused(
    publish: Callable[..., Record], tree: Callable[..., Path], tmp_path: Path
) -> None:
    source = tree({"f": b"content"})
    (source / "link").symlink_to("f")
    with pytest.raises(StoreError, match="link"):
        publish(source)


@pytest.mark.parametrize(
    "change", [{"provenance": {"x": float("nan")}}, {"config": {1: 2}}, {"key": "../../etc"}]
)
def test_a_bad_field_is_refused_before_any_bytes_are_moved(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path], change: Any
) -> None:
    before = snapshot(store.root / "cas")
    with pytest.raises(StoreError):
        publish(tree(TREE), **change)
    assert snapshot(store.root / "cas") == before


def test_a_full_disk_leaves_no_record(
    store: Store,
    publish: Callable[..., Record],
    tree: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        publish(tree(TREE))
    assert "\n" not in str(caught.value)
    assert store.lookup(KEY) is None
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("call", ["lookup", "lock", "scratch"])
def test_keys_are_checked_before_they_are_paths(store: Store, call: str) -> None:
    with pytest.raises(StoreError, match="64 hex"):
        getattr(store, call)("../" * 10)


def test_records_are_sorted(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    publish(tree(TREE), KEY, stage="sft", name="b")
    publish(tree(TREE), OTHER_KEY, stage="sft", name="a")
    publish(tree(TREE), "c" * 64, stage="grpo", name="z")
    (store.root / "actions" / f"{'d' * 64}.json").write_text("{")
    assert [record.name for record in store.records()] == ["z", "a", "b"]


def test_resolve(store: Store, publish: Callable[..., Record], tree: Callable[..., Path]) -> None:
    record = publish(tree(TREE))
    publish(tree(TREE), OTHER_KEY, name="zzz")
    ref = record.outputs["adapter"]
    assert store.resolve(ref.digest[:6].upper()) == ("adapter", ref, KEY)
    assert store.resolve(ref.digest) == ("adapter", ref, KEY)
    with pytest.raises(StoreError, match="too short"):
        store.resolve(ref.digest[:5])
    with pytest.raises(StoreError, match="no record"):
        store.resolve("f" * 64)


def test_an_ambiguous_prefix_is_refused(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    record = publish(tree(TREE))
    document = record.to_json()
    ref = replace(record.outputs["adapter"], digest=record.outputs["adapter"].digest[:8] + "0" * 56)
    document["key"], document["outputs"] = OTHER_KEY, {"adapter": ref.to_json()}
    (store.root / "actions" / f"{OTHER_KEY}.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="ambiguous"):
        store.resolve(ref.digest[:8])
    assert store.resolve(ref.digest)[2] == OTHER_KEY


def test_export_copies(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path], tmp_path: Path
) -> None:
    record = publish(tree(TREE))
    target = tmp_path / "out" / "adapter"
    written = store.export(record.outputs["adapter"].digest, target)
    assert written == [target / "config.json", target / "model"]
    (target / "model").write_bytes(b"edited!")
    assert store.path(record.outputs["adapter"]).joinpath("model").read_bytes() == b"weights"
    (path,) = store.export(record.outputs["metrics.json"].digest[:12], tmp_path / "metrics")
    assert path == tmp_path / "metrics" / "metrics.json"


def test_export_never_overwrites(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path], tmp_path: Path
) -> None:
    ref = publish(tree(TREE)).outputs["adapter"]
    (tmp_path / "out").mkdir()
    store.export(ref.digest, tmp_path / "out")
    for target in (tmp_path / "out", tmp_path / "out" / "model", tmp_path / "out" / "model" / "x"):
        with pytest.raises(StoreError, match=str(target)):
            store.export(ref.digest, target)


def test_verify_reports_bad_and_missing(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    record = publish(tree(TREE))
    report = store.verify()
    assert (report.ok, report.checked, report.bad, report.missing) == (True, 4, (), ())
    assert report.bytes == sum(path.stat().st_size for path in (store.root / "cas").glob("*/*"))

    model = store.path(record.outputs["adapter"]) / "model"
    model.chmod(0o644)
    model.write_bytes(b"WEIGHTS")
    report = store.verify()
    assert not report.ok
    ((digest, reason),) = report.bad
    assert "sha256" in reason
    assert report.missing == ((KEY, "adapter", digest),)
    assert store.verify().checked == 3


def test_verify_believes_no_earlier_check(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    """Damage below the filesystem leaves size and time as they were."""
    ref = publish(tree(TREE)).outputs["metrics.json"]
    path = store.path(ref)
    times = path.stat()
    path.chmod(0o644)
    path.write_bytes(b'{"loss": 0.4}')
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [digest for digest, _ in store.verify().bad] == [ref.digest]


def test_runs_are_newest_first(store: Store) -> None:
    for time, name in enumerate(["b", "c", "a"]):
        path = store.write_run(name, {"stages": [name]})
        os.utime(path, (time, time))
    (store.root / "runs" / "torn.json").write_text('{"stages"')
    assert store.runs() == [(name, {"stages": [name]}) for name in ("a", "c", "b")]
    with pytest.raises(StoreError, match=r"'\.\./x'"):
        store.write_run("../x", {})


def test_a_run_keeps_its_order(store: Store) -> None:
    """Stages are shown in the order of the pipeline."""
    store.write_run("run", {"stages": {"sft": 1, "grpo": 2, "evaluate": 3}})
    ((_, document),) = store.runs()
    assert list(document["stages"]) == ["sft", "grpo", "evaluate"]


def test_a_run_that_is_no_json_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        store.write_run("run", {"seconds": float("nan")})


def test_read_json_refuses_other_content(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    outputs = publish(tree({"text": b"{", "adapter/model": b""})).outputs
    with pytest.raises(StoreError, match="not JSON"):
        store.read_json(outputs["text"])
    with pytest.raises(StoreError, match="directory"):
        store.read_json(outputs["adapter"])


def test_open_without_create_touches_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "absent", create=False)
    assert store.lookup(KEY) is None
    assert (list(store.records()), store.runs()) == ([], [])
    assert store.scratch(KEY) == tmp_path / "absent" / "scratch" / KEY
    with pytest.raises(MissingObject):
        store.path(Ref(KEY, 1, "file"))
    with pytest.raises(StoreError, match="create=False"):
        store.lock(KEY)
    with pytest.raises(StoreError, match="create=False"):
        store.write_run("run", {})
    assert list(tmp_path.iterdir()) == []


def test_lookup_touches_nothing(
    store: Store, publish: Callable[..., Record], tree: Callable[..., Path]
) -> None:
    publish(tree(TREE))
    before = snapshot(store.root)
    assert Store.open(store.root, create=False).lookup(KEY) is not None
    assert snapshot(store.root) == before


def test_open_proves_that_the_store_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written") as caught:
        Store.open(tmp_path / "file" / "store")
    assert "LORAPAR_STORE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAPAR_STORE", f"file://{tmp_path}/from-env")
    assert Store.open().root == tmp_path / "from-env"
    with pytest.raises(StoreError, match="'s3'"):
        Store.open("s3://bucket/store")


def test_import_is_light() -> None:
    """A cached run pays for the import each time; half of what follows would undo that."""
    program = (
        "import sys, artifacts; "
        "print(*{'torch', 'prefect', 'pyarrow', 'fsspec', 'lorapar_core', 'numpy', 'asyncio'}"
        " & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("", "")
