"""A recipe that the tiny model runs through in seconds, on problems that the project makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

STAGES = (
    "prepare",
    "vote[first]",
    "vote[second]",
    "initialize",
    "tally",
    "moments[1/0]",
    "moments[2/0]",
    "score[1]",
    "score[2]",
    "profile",
    "partition",
    "evaluate[base]",
    "sft",
    "evaluate[sft]",
    "grpo",
    "evaluate[grpo]",
    "report",
)
"""Every action of the recipe, in the order of the pipeline."""


def tiny_recipe(model: Path | str) -> dict[str, Any]:
    """The recipe's fields: two teachers that are the model itself, two steps a training stage."""
    return {
        "description": "a random model",
        "model": {"base": str(model), "dtype": "float32"},
        "data": {"source": "arithmetic", "examples": 24, "test_examples": 6},
        "voting": {"target": "a tiny model"},
        "teachers": [
            {"name": "first", "provider": "local", "wording": "direct", "calibration": "batch"},
            {"name": "second", "provider": "local", "wording": "examiner", "calibration": "batch"},
        ],
        "lora": {"r": 2, "lora_alpha": 4},
        "importance": {"examples": 4},
        "sft": {"max_steps": 2, "batch_size": 4, "accumulation": 1, "max_length": 256},
        "grpo": {
            "prompt": "as_sft",
            "max_steps": 2,
            "group_size": 4,
            "batch_size": 4,
            "accumulation": 1,
            "max_prompt_length": 256,
            "max_completion_length": 8,
        },
        "evaluation": {"max_new_tokens": 8},
        "runtime": {"child": "resident", "device": "cpu", "threads": 1},
    }


def write_tiny_recipe(path: Path, model: Path | str, **sections: Any) -> Path:
    """Write it as YAML, `sections` merged over its own."""
    fields = tiny_recipe(model)
    for name, section in sections.items():
        old = fields.get(name)
        fields[name] = {**old, **section} if isinstance(old, dict) else section
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path
