"""What a recipe's missing stages need: memory of the device for the largest, and disk for all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lorapar_core.base import locate
from lorapar_core.checkpoints import KEPT
from lorapar_core.config import BenchmarkConfig, Recipe, RuntimeConfig
from lorapar_core.data.benchmark_sets import Shown
from lorapar_core.data.problems import Kind
from lorapar_core.examples import token_rows
from lorapar_core.memory import (
    FLOAT,
    STAGES,
    TEMPLATE_TOKENS,
    TOKEN_BYTES,
    Asked,
    Device,
    Estimate,
    Lengths,
    Setup,
    estimate,
    optimizer_bytes,
    setup_of,
)
from lorapar_core.model_shape import ModelShape, read_shape
from lorapar_core.process import has_gpu_driver
from tasks.action import Action
from tasks.benchmark import label_of

GIB = 2**30
_KINDS: Mapping[str, Kind] = {"mmlu": "choice", "humaneval": "code"}
"""Of tasks that nobody has read; of others `generate`."""
_shape_of = cache(read_shape)


def longest(recipe: Recipe, tokens: Path | None) -> Lengths:
    """Of the tokenised examples; without any, as long as the recipe allows."""
    allowed = Lengths.allowed(recipe)
    if tokens is None:
        return allowed
    sft, grpo = (_longest_row(tokens, form) for form in ("sft", "grpo"))
    return Lengths(sft or allowed.sft, grpo or allowed.prompt)


@cache
def _longest_row(tokens: Path, form: str) -> int:
    """Of an artifact, which never changes, for many trials of a sweep; 0 without rows."""
    return max((len(p) + len(a) for p, a in token_rows(tokens, form=form).values()), default=0)


def asked(recipe: Recipe, config: BenchmarkConfig, shown: Shown | None) -> Asked:
    """How a benchmark is put, by the bytes of its longest prompt.

    `shown` is None while nobody has read the set. Then the question, and each worked example,
    counts as long as SFT lets a row be.
    """
    tokens = (1 + config.shots) * recipe.sft.max_length
    if shown:
        prompts = (shown.prefixes[p.group] + p.prompt for p in shown.problems.values())
        tokens = max(len(prompt.encode()) for prompt in prompts) // TOKEN_BYTES
        tokens += TEMPLATE_TOKENS * (1 + config.shots)
    if config.prompt == "as_sft":
        tokens += len(recipe.grpo.system_prompt.encode()) // TOKEN_BYTES
    kind = shown.kind if shown else _KINDS.get(config.task, "generate")
    new = config.max_new_tokens or recipe.evaluation.max_new_tokens
    return Asked(kind, tokens, 0 if kind == "choice" else new, drawn=config.samples > 1)


def memory(
    recipe: Recipe, missing: Sequence[Action], lengths: Lengths, shown: Mapping[str, Shown]
) -> Estimate | None:
    """What the largest of the missing stages' processes needs; nothing where none holds a model.

    None where a model isn't here yet, or is of a form that we don't know. `shown` are the
    benchmarks that have been read, by label.
    """
    held = [action for action in missing if action.stage in STAGES and action.place == "device"]
    put = {b.label: asked(recipe, b, shown.get(b.label)) for b in recipe.evaluation.benchmarks}
    found = [_one(recipe, action, lengths, put) for action in held]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    return max(known, key=lambda one: one.total, default=Estimate("", {}))


def _one(
    recipe: Recipe, action: Action, lengths: Lengths, put: Mapping[str, Asked]
) -> Estimate | None:
    shape = _shape(*_model(recipe, action))
    if shape is None:
        return None
    return estimate(
        action.stage,
        recipe,
        shape,
        device=device(recipe.runtime),
        lengths=lengths,
        asked=put.get(label_of(action)) if action.stage == "evaluate" else None,
        name=action.name,
    )


def _model(recipe: Recipe, action: Action) -> tuple[str, str]:
    """Name and revision of the model that an action runs."""
    base = recipe.model.base, recipe.model.revision
    if action.stage != "vote":
        return base
    name = action.config["teacher"]["name"]
    teacher = next(teacher for teacher in recipe.teachers if teacher.name == name)
    return (teacher.model, teacher.revision) if teacher.model else base


def _shape(model: str, revision: str) -> ModelShape | None:
    path = locate(model, revision).path
    return _shape_of(path) if path else None


def device(runtime: RuntimeConfig) -> Device:
    """Where a run on this machine computes, found without torch; unified memory is a CPU's."""
    if runtime.device != "auto":
        return "gpu" if runtime.device.startswith("cuda") else "cpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return "gpu" if has_gpu_driver() and not hidden else "cpu"


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that stages write, and that the largest keeps while it works."""

    written: int
    kept: int


def disk(recipe: Recipe, missing: Sequence[Action]) -> Disk | None:
    """Of the missing stages; None where it isn't known.

    Tables, logs and the report, a few MiB, aren't counted, nor is what comes from the hub.
    """
    shape = _shape(recipe.model.base, recipe.model.revision)
    setup = setup_of(recipe, shape, "cpu") if shape else None
    written = [_written(recipe, action, setup) for action in missing]
    if setup is None or None in written:
        return None
    checkpoints = [_checkpoints(recipe, action, setup) for action in missing]
    return Disk(sum(filter(None, written)), max(checkpoints, default=0))


def _written(recipe: Recipe, action: Action, setup: Setup | None) -> int | None:
    """Bytes of an action's artifacts."""
    if action.stage == "dequantize":
        source = action.inputs["gguf"]
        path = getattr(source, "path", None)
        shape = _shape_of(path) if path else None
        return shape.parameters * FLOAT if shape else None
    if setup is None:
        return None
    residual = recipe.lora.residual and recipe.peft.kind == "lora"
    adapter = setup.elements * FLOAT
    by_stage: Mapping[str, Callable[[], int]] = {
        "initialize": lambda: adapter + residual * setup.shape.parameters * setup.width,
        "moments": lambda: 2 * adapter,
        "score": lambda: adapter,
        "partition": lambda: setup.elements,
        "sft": lambda: adapter,
        "grpo": lambda: adapter,
    }
    return by_stage.get(action.stage, lambda: 0)()


def _checkpoints(recipe: Recipe, action: Action, setup: Setup) -> int:
    """Bytes of a training stage's checkpoints, the one being written among them."""
    if action.stage not in ("sft", "grpo"):
        return 0
    state = optimizer_bytes(getattr(recipe, action.stage).optimizer)
    return (KEPT + 1) * setup.elements * (FLOAT + state)


def told(
    recipe: Recipe, missing: Sequence[Action], tokens: Path | None, shown: Mapping[str, Shown]
) -> dict[str, Any]:
    """Both, in GiB, as a plan's fields; null where it isn't known.

    `tokens` is the table of stage `prepare`, None before it has run; `shown` are the benchmarks
    that can be read.
    """
    found = memory(recipe, missing, longest(recipe, tokens), shown)
    filled = disk(recipe, missing)
    written = filled.written + filled.kept if filled else None
    return told_of(found, written, recipe.runtime)


def told_of(found: Estimate | None, written: int | None, runtime: RuntimeConfig) -> dict[str, Any]:
    """Memory, and bytes of disk, likewise."""
    details = found and {
        "stage": found.name,
        "device": device(runtime),
        "parts_gib": {part: _gib(size) for part, size in found.parts.items()},
    }
    return {
        "memory_gib": None if found is None else _gib(found.total),
        "memory": details,
        "disk_gib": None if written is None else _gib(written),
    }


def _gib(size: int) -> float:
    return round(size / GIB, 3)


def memory_line(planned: Mapping[str, Any]) -> str:
    """For people: the figure, and what it goes to."""
    if planned["memory_gib"] is None:
        return "memory: unknown (the model is not on this machine yet, or of a form we don't know)"
    details = planned["memory"]
    if not details["stage"]:
        return "memory: no stage that is left holds a model"
    shown = [(part, f"{size:.1f}") for part, size in details["parts_gib"].items()]
    parts = ", ".join(f"{part} {size}" for part, size in shown if size != "0.0")
    where = "the GPU" if details["device"] == "gpu" else "the CPU"
    return f"memory: {planned['memory_gib']:.1f} GiB on {where} ({details['stage']}: {parts})"
