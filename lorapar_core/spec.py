"""What a stage is given: its slice of the recipe, its inputs as paths, and where it runs.

`config` and the inputs' digests are the stage's identity; `runtime` and the paths are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorapar_core.config import RuntimeConfig


@dataclass(frozen=True, slots=True)
class Spec:
    """One run of one stage."""

    stage: str
    name: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Path]
    scratch: Path
    """Private to this action key; survives a kill, and is removed when the stage is published."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    digests: Mapping[str, str] = field(default_factory=dict)
    """Input role -> content digest, for stages that name an input in what they write."""
    site: Mapping[str, Any] = field(default_factory=dict)
    """What the stage needs but what is no part of its identity (a teacher's URL, a key's name)."""
    checkpoints: tuple[Path, ...] = ()
    """Checkpoints from elsewhere that a training stage may go on from, beside those in scratch."""
    ledger: Path | None = None
    """Where a teacher's votes are kept for good, whichever stage asked for them."""

    def to_json(self) -> str:
        return json.dumps(
            {
                "stage": self.stage,
                "name": self.name,
                "config": dict(self.config),
                "inputs": {role: str(path) for role, path in self.inputs.items()},
                "scratch": str(self.scratch),
                "runtime": self.runtime.model_dump(mode="json"),
                "digests": dict(self.digests),
                "site": dict(self.site),
                "checkpoints": [str(path) for path in self.checkpoints],
                "ledger": str(self.ledger) if self.ledger else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Spec:
        fields = json.loads(text)
        return cls(
            stage=fields["stage"],
            name=fields.get("name", fields["stage"]),
            config=fields["config"],
            inputs={role: Path(path) for role, path in fields["inputs"].items()},
            scratch=Path(fields["scratch"]),
            runtime=RuntimeConfig.model_validate(fields.get("runtime", {})),
            digests=fields.get("digests", {}),
            site=fields.get("site", {}),
            checkpoints=tuple(map(Path, fields.get("checkpoints", []))),
            ledger=Path(fields["ledger"]) if fields.get("ledger") else None,
        )
