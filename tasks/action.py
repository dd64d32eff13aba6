"""An action: one stage with its slice of the recipe and its inputs, named by what it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from artifacts import Ref, action_key
from lorapar_core.stages import stage


@dataclass(frozen=True, slots=True)
class External:
    """An input outside the store: a data file, a hub snapshot. Its digest names it.

    Without a digest it is not known yet: a file that is not here, or what no run has made.
    """

    digest: str | None = None
    path: Path | None = None
    expected: str = ""
    """What stands for the digest, while nobody knows it: its place, or what will make it."""

    @classmethod
    def of_file(cls, path: Path) -> External:
        """A file by its content.

        Raises:
            OSError: it can't be read.
        """
        with path.open("rb") as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), path)


Input = Ref | External
UNKNOWN = External()


def _name(value: Input) -> str:
    """Its digest, or what stands for it."""
    return (value.digest or value.expected) if isinstance(value, External) else value.digest


@dataclass(frozen=True)
class Action:
    """What is to be computed. Two actions with the same key give the same artifacts."""

    stage: str
    name: str
    """As people see it: `score[1]`. No part of the key."""
    config: Mapping[str, Any]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    site: Mapping[str, Any] = field(default_factory=dict)
    """Needed to run, no part of the key: a URL, the name of a key's variable."""
    reads: Mapping[str, Input] = field(default_factory=dict)
    """Inputs that are no part of the key, because `config` names what is read of them."""
    ledger: str = ""
    """Digest that names the store's ledger which the stage writes to."""
    place: Literal["device", "network"] = "device"
    """Waits for a compute process, or for a network."""
    units: int = 0
    """How many examples it asks or computes on, for `plan`; 0 where that says nothing."""

    @property
    def version(self) -> int:
        return stage(self.stage).version

    @cached_property
    def key(self) -> str | None:
        """The action key; None while an input is unknown."""
        if any(value.digest is None for value in self.reads.values()):
            return None
        digests = {role: value.digest for role, value in self.inputs.items()}
        known = {role: digest for role, digest in digests.items() if digest is not None}
        if len(known) < len(digests):
            return None
        return action_key(stage=self.stage, version=self.version, config=self.config, inputs=known)

    @cached_property
    def expected(self) -> str:
        """The key; while inputs are unknown, what stands for it in a plan.

        Actions for which it is equal will have equal keys, but for the first rounds of curtailed
        votes, which tell whom they ask about what once the examples are known. Where it differs
        keys may turn out equal: two ways to the same bytes.
        """
        if self.key:
            return self.key
        named = {role: _name(value) for role, value in self.inputs.items()}
        return action_key(stage=self.stage, version=self.version, config=self.config, inputs=named)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action came to."""

    name: str
    stage: str
    key: str | None
    action: Literal["cached", "computed", "missing"]
    """`missing`: a plan found nothing, and nothing was run."""
    seconds: float
    outputs: Mapping[str, Ref]
    expected: str = ""
    """Of a plan's action that is missing: `Action.expected`."""

    def __getitem__(self, role: str) -> Input:
        """The artifact of a role; one without a digest where nothing was run.

        Raises:
            KeyError: the stage ran and has no such role.
        """
        if self.action == "missing":
            return External(expected=f"{self.expected}/{role}")
        return self.outputs[role]
