"""A report of made-up figures, with a profile of a small adapter; others' texts are the test's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tiny_inputs import run_stage

from lorapar_core.config import Recipe

HOSTILE = (
    "</td></script><script>alert('x')</script> | <img onerror=y> & \"q\" \\| `code` <!--/run-->"
    " \u2028 ]]> <!--run-->"
)


def teacher(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "provider": "local", "calibration": "batch", **changed}


LOCAL = [teacher(name) for name in ("one", "two", "three")]


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def agreement_of(recipe: Recipe, text: str = "fine") -> dict[str, Any]:
    """What the tally tells of the recipe's teachers; `text` is whatever third parties wrote."""
    names = [teacher.name for teacher in recipe.panel]
    figures = {
        "votes": 10,
        "abstained": 3,
        "abstained_because": {"deadline": 2, "off_schema": 1},
        "system2_share": 0.5,
        "calibration": "batch",
        "offset_nats": -1.25,
    }
    silent = {**figures, "votes": 0, "abstained": 0, "abstained_because": {}, "system2_share": None}
    judge = {recipe.judge.name: silent} if recipe.judge else {}
    return {
        "counts": {"1": 6, "2": 4, "dropped": 2},
        "unanimous_share": 0.5,
        "curtailed": recipe.voting.curtailed,
        "votes": 25,
        "votes_if_full": 36,
        "teachers": {**dict.fromkeys(names, figures), **judge},
        "judge": recipe.judge.name if recipe.judge else None,
        "sample": 12,
        "raw_agreement": 0.75,
        "fleiss_kappa": {"kappa": 0.4321, "examples": 9},
        "krippendorff_alpha": {"alpha": 0.5678, "low": 0.3456, "high": 0.7891},
        "vote_correlation": 0.6543,
        "effective_teachers": 1.2345,
        "pairs": [
            {"teachers": ["one", "two"], "both": 11, "agreement": 0.9, "kappa": 0.8, "phi": None},
        ],
        "alike": [],
        "dawid_skene": {
            "examples": 12,
            "counts": {"1": 7, "2": 5},
            "differ": 3,
            "converged": True,
            "right_share": {},
        },
        "divided": [
            {
                "example_id": "0",
                "prompt": text,
                "answer": text,
                "votes": {
                    "one": {"vote": 1, "reply": text},
                    "two": {"vote": None, "reply": ""},
                },
            }
        ],
        "flagged": 7,
        "flagged_examples": [
            {"example_id": "0", "prompt": text, "answer": text, "signs": ["override", "label"]}
        ],
    }


def profile_of(root: Path, *, module: str = "fine") -> Path:
    """Of an adapter with three layers, one of whose modules has a name that somebody chose."""
    draws = np.random.default_rng(0)
    prefix, importances = "base_model.model.model", {}
    for system in (1, 2):
        tensors = {
            f"{prefix}.layers.{layer}.mlp.{name}.lora_{part}.weight": draws.random(
                (4, 6), np.float32
            )
            for layer in range(3)
            for name in ("q_proj", "up_proj")
            for part in "AB"
        }
        tensors[f"{prefix}.{module}.lora_A.weight"] = draws.random((4, 6), np.float32)
        importances[f"importance/{system}"] = root / f"importance-{system}.safetensors"
        save_file(tensors, importances[f"importance/{system}"])
    config = {"partition": {"theta": 0.7}}
    run_stage("partition", config, importances, root / "partition")
    return run_stage("profile", {}, importances, root / "profile")


def trial_inputs(
    root: Path, recipe: Recipe, text: str, *, told: dict[str, Any] | None = None
) -> dict[str, Path]:
    """What a page tells of a trial's data, labels and regions."""
    counts = {"s1_only": 30, "s2_only": 20, "shared": 40, "rest": 10, "elements": 100}
    agreement = {**agreement_of(recipe, text), **(told or {})}
    regions = {
        "counts": counts,
        "kept_share": {"1": 0.7, "2": 0.6},
        "jaccard": 0.444,
        "by_place": {"0.q_proj": counts, "1.q_proj": counts, "0.up_proj": counts},
    }
    return {
        "summary": write(root / "summary.json", {"train": 12, "test": 8, "duplicates": 3}),
        "agreement": write(root / "agreement.json", agreement),
        "profile": profile_of(root, module=text) / "profile.json",
        "regions": write(root / "regions.json", regions),
    }


def report(
    root: Path,
    *,
    teachers: list[dict[str, Any]] | None = None,
    text: str = "fine",
    told: dict[str, Any] | None = None,
    **sections: Any,
) -> Path:
    root.mkdir()
    fields = {"teachers": teachers or LOCAL, "description": text, **sections}
    recipe = Recipe.model_validate(fields)
    accuracy = {"accuracy": 0.25, "correct": 2, "interval_95": [0.072, 0.591]}
    evaluation = {
        "n": 8,
        "strict": accuracy,
        "flexible": accuracy,
        "finished_share": 0.5,
        "mean_tokens": 31.4,
    }
    steps = [
        {"step": k, "loss": 2.0 - k / 10, "reward": 0.1 * k, "grad_norm": 1.0, "kl": 0.0}
        for k in (1, 2, 3)
    ]
    metrics = root / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(step) + "\n" for step in steps))
    inputs = {
        **trial_inputs(root, recipe, text, told=told),
        "evaluation/base": write(root / "base.json", evaluation),
        "evaluation/grpo": write(root / "grpo.json", {**evaluation, "n": 9}),
        "training/grpo": metrics,
    }
    config = {"recipe": recipe.model_dump(mode="json", exclude={"runtime"}), "model": text}
    digests = {role: f"{k:064x}" for k, role in enumerate([*inputs, text])}
    return run_stage("report", config, inputs, root / "out", digests=digests)
