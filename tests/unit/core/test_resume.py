"""Processes that train together go on from the same checkpoint, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from lorapar_core import ranks
from lorapar_core.errors import TrainingError
from lorapar_core.resume import ExactResume


class _Begun:
    step, total = 3, 3
    path = "unread"
    name = "step 3 (0123)"


class _Trainer(ExactResume):
    """At its end: it would load its checkpoint and train no more."""

    def __init__(self) -> None:
        self.journal: Any = type("Journal", (), {"begun": _Begun()})()
        self.gathered = ()
        self.loaded: list[str] = []

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        self.loaded.append(checkpoint)


def test_different_checkpoints_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = _Trainer()
    alone.train_to_the_end()
    assert alone.loaded == ["unread"]
    monkeypatch.setattr(ranks, "everywhere", lambda name: [name, "step 3 (4567)"])
    late = _Trainer()
    with pytest.raises(
        TrainingError, match=r"2 processes found different .* step 3 \(0123\), step 3 \(4567\);"
    ):
        late.train_to_the_end()
    assert late.loaded == []
