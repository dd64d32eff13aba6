"""The stages: name -> version and where its code stands.

A stage is `run(spec: Spec, out: Path)`: it writes one file or directory a role into the empty
directory `out`. `version` is part of the action key; raise it by hand when a stage's meaning
changes, so that old artifacts are no longer taken for new ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorapar_core.errors import ConfigError
from lorapar_core.spec import Spec


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of work."""

    version: int
    module: str

    def run(self, spec: Spec, out: Path) -> None:
        run: Callable[[Spec, Path], None] = importlib.import_module(self.module).run
        run(spec, out)


STAGES: dict[str, Stage] = {
    "dequantize": Stage(1, "lorapar_core.dequantize"),
    "prepare": Stage(2, "lorapar_core.prepare"),
    "vote": Stage(2, "lorapar_core.vote"),
    "tally": Stage(2, "lorapar_core.tally"),
    "initialize": Stage(1, "lorapar_core.initialize"),
    "moments": Stage(2, "lorapar_core.moments"),
    "score": Stage(1, "lorapar_core.importance"),
    "profile": Stage(1, "lorapar_core.profile_importance"),
    "partition": Stage(1, "lorapar_core.partition"),
    "sft": Stage(4, "lorapar_core.sft"),
    "grpo": Stage(5, "lorapar_core.grpo"),
    "benchmark": Stage(1, "lorapar_core.benchmark"),
    "evaluate": Stage(1, "lorapar_core.evaluate"),
    "report": Stage(6, "lorapar_core.report"),
    "sweep": Stage(5, "lorapar_core.sweep_results"),
}


def stage(name: str) -> Stage:
    """The stage called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in STAGES:
        raise ConfigError(f"no stage {name!r}; there are {', '.join(STAGES)}")
    return STAGES[name]
