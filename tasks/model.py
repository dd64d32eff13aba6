"""The base model as an input: a hub snapshot, a local directory, or a GGUF made into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorapar_core.base import Base
from lorapar_core.config import ModelConfig
from tasks.action import Action, External, Input, Outcome


@dataclass(frozen=True, slots=True)
class Model:
    """A base model that stages can read."""

    name: str
    """What people call it."""
    identity: str
    """What artifacts call it: never by where it lies. Empty while nobody knows."""
    base: Input
    tokenizer: Input


def settings(model: ModelConfig) -> dict[str, Any]:
    """How a stage that computes with the base holds it.

    No quantization stands in no key: what was computed before there was one keeps its key.
    """
    quantized = {"quantization"} if model.quantization != "none" else set()
    return model.model_dump(include={"dtype", "attention"} | quantized)


def dequantize(base: Base, *, name: str = "dequantize") -> Action:
    """Make safetensors of a GGUF file, once."""
    return Action("dequantize", name, config={}, inputs={"gguf": _read(base, base.digest)})


def model_of(base: Base, dequantized: Outcome | None) -> Model:
    """The base as stages read it."""
    if dequantized is not None:
        weights, tokenizer = dequantized["base"], dequantized["tokenizer"]
        return Model(f"gguf:{base.label}", base.identity or "", weights, tokenizer)
    read, tokens = _read(base, base.digest), _read(base, base.tokenizer_digest)
    return Model(base.label, base.identity or "", read, tokens)


def _read(base: Base, digest: str | None) -> External:
    return External(digest, base.path, expected=base.label)
