"""Read a benchmark's problems, and put them to the base or to an adapter on it."""

from __future__ import annotations

from typing import Any

from lorapar_core.config import BenchmarkConfig, Recipe
from tasks.action import UNKNOWN, Action, External, Input, Outcome
from tasks.model import settings
from tasks.prepare import Located
from tasks.programs import JUDGED
from tasks.train import answer_format


def benchmark(config: BenchmarkConfig, *, test: Located, shots: Located | None) -> Action:
    """What it is called is no part of the key, nor is what only concerns who is asked."""
    located = {"set": test, "shots_set": shots}
    return Action(
        "benchmark",
        f"benchmark[{config.label}]",
        config={
            "task": config.task,
            "examples": config.examples,
            "seed": config.seed if config.examples or config.shots else 0,
            "subjects": sorted(config.subjects),
            "shots": config.shots,
            **{role: one.source.to_json() if one else None for role, one in located.items()},
        },
        inputs={
            role: External.of_file(one.file) if one.file else UNKNOWN
            for role, one in located.items()
            if one and one.source.kind == "file"
        },
    )


def measure(
    recipe: Recipe,
    config: BenchmarkConfig,
    *,
    after: str,
    kind: str,
    base: Input,
    adapter: Input | None,
    problems: Outcome,
) -> Action:
    """`after` names the training stage; `kind` is its kind, which decides how `as_sft` asks."""
    inputs = {
        "base": base,
        "problems": problems["problems.parquet"],
        "benchmark": problems["benchmark.json"],
    }
    if adapter is not None:
        inputs["adapter"] = adapter
    as_sft = config.prompt == "as_sft"
    evaluation = {
        "max_new_tokens": config.max_new_tokens or recipe.evaluation.max_new_tokens,
        "batch_tokens": recipe.evaluation.batch_tokens,
    }
    if config.task == "mmlu":
        del evaluation["max_new_tokens"]  # it generates nothing
    judged = JUDGED if config.task in ("humaneval", "file") else {}
    return Action(
        "evaluate",
        f"evaluate[{after}/{config.label}]",
        config={
            **judged,
            "evaluation": evaluation,
            "model": settings(recipe.model),
            "ask": _ask(recipe, config),
            "format": kind if as_sft else "sft",
            "answer_format": answer_format(recipe, kind) if as_sft else "hash",
        },
        inputs=inputs,
    )


def label_of(action: Action) -> str:
    """The benchmark that an evaluation puts; empty if it is the recipe's own test set."""
    return action.name.removesuffix("]").partition("/")[2]


def _ask(recipe: Recipe, config: BenchmarkConfig) -> dict[str, Any]:
    ask: dict[str, Any] = {"prompt": config.prompt, "samples": config.samples, "k": config.k}
    if config.samples > 1:
        ask |= config.model_dump(include={"temperature", "top_p", "seed"})
    if config.prompt != "plain":
        ask["chat_template"] = recipe.model.chat_template
    if config.prompt == "as_sft":
        ask["sft"] = recipe.sft.model_dump(include={"prompt"})
        ask["grpo"] = recipe.grpo.model_dump(include={"prompt", "system_prompt"})
    return ask
