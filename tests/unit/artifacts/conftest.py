"""A store on a fresh root, and a short way to publish to it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from artifacts import Record, Store

KEY = "a" * 64
OTHER_KEY = "b" * 64


def write_tree(root: Path, tree: Mapping[str, bytes]) -> Path:
    """Write `tree` (relative name to bytes) under `root`."""
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write a tree outside the store, or under `root`."""
    return lambda files, root=tmp_path / "source": write_tree(root, files)


@pytest.fixture
def publish(store: Store) -> Callable[..., Record]:
    def publish(source: Path, key: str = KEY, **change: Any) -> Record:
        fields = {
            "stage": "sft",
            "name": "sft",
            "version": 1,
            "config": {"lr": 0.1},
            "inputs": {"examples": "c" * 64},
            "provenance": {"host": "here"},
        }
        return store.publish(source, key=key, **{**fields, **change})

    return publish
