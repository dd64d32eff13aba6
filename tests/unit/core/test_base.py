"""Where a base model stands, and what names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from huggingface_hub.errors import IncompleteSnapshotError

from lorapar_core.base import locate

SHA = "5" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def as_fetched(cache: Path, name: str) -> None:
    """The cache as `fetch` leaves it: only the files that we ask for, of a tree that has more."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(SHA)
    names = ("README.md", "config.json", "model.safetensors", "pytorch_model.bin")
    entries = {name: TreeCacheEntry(size=7, blob_id="1" * 40) for name in names}
    write_tree_cache(str(repo), SHA, entries)


def test_a_model_we_fetched_is_here(hub: Path) -> None:
    as_fetched(hub, "owner/model")
    with pytest.raises(IncompleteSnapshotError, match=r"README\.md"):  # without our patterns
        snapshot_download("owner/model", cache_dir=hub, local_files_only=True)
    found = locate("owner/model")
    assert found.path == hub / "models--owner--model" / "snapshots" / SHA
    assert found.label == found.identity == f"owner/model@{SHA}"


def test_a_model_nobody_fetched_is_absent_and_no_error(hub: Path) -> None:
    found = locate("owner/model")
    assert (found.path, found.digest) == (None, None)


def test_a_local_model_is_named_by_content_and_not_by_place(
    tiny_model: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "another-name"
    shutil.copytree(tiny_model, moved)
    here, there = locate(str(tiny_model)), locate(str(moved))
    assert here.label != there.label
    assert here.identity == there.identity == f"sha256:{here.digest}"
