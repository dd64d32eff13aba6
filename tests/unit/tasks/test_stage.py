"""One action in the store: who waits for it, and what its record tells."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from artifacts import Store
from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import Stopped
from tasks import stage
from tasks.action import Action, External
from tasks.children import Children
from tasks.stage import code_commit, perform

RUNTIME = RuntimeConfig(device="cpu", threads=1)
ACTION = Action("dequantize", "dequantize", config={}, inputs={"gguf": External("a" * 64, None)})


class Waiting(threading.Thread):
    """A run that wants the action, and everything it says."""

    def __init__(self, store: Store, children: Children) -> None:
        super().__init__()
        self.said: list[Mapping[str, Any]] = []
        self.heard = threading.Event()
        self.ended: object = None
        self._given = {"store": store, "children": children}

    def run(self) -> None:
        try:
            self.ended = perform(ACTION, runtime=RUNTIME, listen=self._listen, **self._given)
        except Stopped as error:
            self.ended = error

    def _listen(self, event: Mapping[str, Any]) -> None:
        self.said.append(event)
        self.heard.set()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(stage._Waiting, "after_s", 0.2)
    return Store.open(tmp_path / "store")


def test_a_run_says_once_that_it_waits_for_another_and_takes_what_that_made(store: Store) -> None:
    assert ACTION.key
    with Children(RUNTIME) as children:
        waiting = Waiting(store, children)
        with store.lock(ACTION.key):
            waiting.start()
            assert waiting.heard.wait(10)
            out = store.scratch(ACTION.key) / "out"
            out.mkdir()
            (out / "base").write_text("what the other run made")
            store.publish(
                out,
                key=ACTION.key,
                stage=ACTION.stage,
                name=ACTION.name,
                version=ACTION.version,
                config={},
                inputs={"gguf": "a" * 64},
                provenance={},
            )
        waiting.join(10)
    assert [event["message"] for event in waiting.said] == [
        "another run is computing this; waiting for it"
    ]
    assert getattr(waiting.ended, "action", waiting.ended) == "cached"


def test_who_waits_ends_with_its_own_run(store: Store) -> None:
    """And not with the other, which may take hours."""
    assert ACTION.key
    children = Children(RUNTIME)
    waiting = Waiting(store, children)
    with store.lock(ACTION.key):
        waiting.start()
        assert waiting.heard.wait(10)
        children.close()
        waiting.join(10)
        assert not waiting.is_alive()
    assert str(waiting.ended) == "dequantize: no longer waited for, the run has ended"


def test_a_record_tells_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own checkout's, and not that of somebody who keeps a copy of it in theirs."""
    outer, inner = tmp_path / "theirs", tmp_path / "theirs" / "lorapar"
    (inner / "tasks").mkdir(parents=True)
    module = Path(shutil.copy(stage.__file__, inner / "tasks"))
    monkeypatch.setattr(stage, "__file__", str(module))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)

    def git(folder: Path, *words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for folder in (outer, inner):
        assert code_commit() is None
        git(folder, "init", "-q")
        git(folder, "add", "tasks" if folder == inner else "lorapar/tasks")
        git(folder, "commit", "-qm", "first")
    commit = git(inner, "rev-parse", "HEAD")
    assert code_commit() == commit
    module.write_text("changed")
    assert code_commit() == f"{commit}-dirty"
