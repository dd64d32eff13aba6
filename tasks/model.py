"""The base model as an input: a hub snapshot, a local directory, or a GGUF made into one."""

from __future__ import annotations

from dataclasses import dataclass

from lorapar_core.base import Base
from tasks.action import Action, External, Input, Outcome


@dataclass(frozen=True, slots=True)
class Model:
    """A base model that stages can read."""

    name: str
    """What adapter configs and reports call it."""
    base: Input
    tokenizer: Input


def dequantize(base: Base, *, name: str = "dequantize") -> Action:
    """Make safetensors of a GGUF file, once."""
    return Action("dequantize", name, config={}, inputs={"gguf": External(base.digest, base.path)})


def model_of(base: Base, dequantized: Outcome | None) -> Model:
    """The base as stages read it."""
    if dequantized is not None:
        return Model(f"gguf:{base.label}", dequantized["base"], dequantized["tokenizer"])
    weights = External(base.digest, base.path)
    return Model(base.label, weights, External(base.tokenizer_digest, base.path))
