"""`lorapar artifacts`: what is in the store, where it came from, and how to take it out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from artifacts import Record, Store, StoreError
from artifacts.store import SHORTEST_PREFIX
from flows.summary import table
from lorapar_core.loading import ADAPTER_CONFIG, read_adapter_config, write_adapter_config


def ls(store: Store, *, as_json: bool) -> int:
    """Every record and its artifacts."""
    records = list(store.records())
    if as_json:
        print(json.dumps([record.to_json() for record in records]))
        return 0
    rows = [
        (record.name, role, ref.digest[:12], _size(ref.size), record.key[:12])
        for record in records
        for role, ref in record.outputs.items()
    ]
    print(table(("stage", "artifact", "digest", "size", "record"), rows))
    return 0


def show(store: Store, digest: str) -> int:
    """The record that an artifact, or a record key, belongs to."""
    named = record_of(store, digest)
    if named:
        print(json.dumps(named.to_json(), indent=2))
        return 0
    role, ref, key = store.resolve(digest)
    record = store.lookup(key)
    made_by = record.to_json() if record else None
    print(json.dumps({"role": role, **ref.to_json(), "made_by": made_by}, indent=2))
    return 0


def verify(store: Store, *, as_json: bool) -> int:
    """Hash every object; exit code 1 if any is bad or missing."""
    report = store.verify()
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.checked} objects checked, {_size(report.bytes)}")
        for line in (*report.bad, *report.missing):
            print(f"bad: {line}")
    return 1 if report.bad or report.missing else 0


def export(store: Store, digest: str, target: Path) -> int:
    """Write an artifact's files into `target`; an adapter gets the path of its base again.

    Raises:
        StoreError: no such artifact, several, or a record's key; or `target` is in the way.
    """
    named = record_of(store, digest)
    if named:
        outputs = ", ".join(f"{role} {ref.digest[:12]}" for role, ref in named.outputs.items())
        raise StoreError(f"{digest} is the record of {named.name}; export what it made: {outputs}")
    _role, ref, key = store.resolve(digest)
    written = store.export(ref.digest, target)
    if (target / ADAPTER_CONFIG).is_file():
        _put_back_base(store, key, target)
    for path in written:
        print(path)
    return 0


def record_of(store: Store, prefix: str) -> Record | None:
    """The one record whose key begins so."""
    if len(prefix) < SHORTEST_PREFIX:
        return None
    found = [record for record in store.records() if record.key.startswith(prefix.lower())]
    return found[0] if len(found) == 1 else None


def _put_back_base(store: Store, key: str, adapter: Path) -> None:
    """Name the base by a path on this machine, where it is known."""
    record = store.lookup(key)
    path = _base_path(store, record) if record else None
    if path and path.is_dir():
        config = read_adapter_config(adapter)
        write_adapter_config(adapter, {**config, "base_model_name_or_path": str(path)})


def _base_path(store: Store, record: Record) -> Path | None:
    """Its own residual base, a stored base that it read, or the directory that it read."""
    if residual := record.outputs.get("base"):
        return store.path(residual)
    digest = record.inputs.get("base")
    for other in store.records():
        stored = other.outputs.get("base")
        if stored and stored.digest == digest:
            return store.path(stored)
    outside = record.provenance.get("external_inputs", {}).get("base")
    return Path(outside) if outside else None


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
