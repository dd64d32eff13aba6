"""Configs of training stages that train the tiny model for two epochs, as a store would hold them.

GRPO reuses each completion twice and makes those of two steps at once, so that a checkpoint falls
between making and using them up.
"""

from __future__ import annotations

from typing import Any

from tiny_inputs import MODEL

TOP = {"system": 2, "data": "system", "epochs": 2.0, "model": MODEL}
NEEDED = ("base", "adapter", "masks", "labels", "tokens")
"""What both stages read; GRPO also reads the examples."""
SFT = {"learning_rate": 1e-2, "weight_decay": 0.1, "batch_size": 2, "accumulation": 2}
GRPO = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "group_size": 4,
    "batch_size": 4,
    "accumulation": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_completion_length": 6,
    "kl_coefficient": 0.1,
    "rewards": {"integer": 1.0, "tag_credit": 0.5},
}


def sft_config(**section: Any) -> dict[str, Any]:
    """Of stage `sft`, with dropout; `section` changes its section."""
    from lorapar_core.config import SftConfig

    made = SftConfig.model_validate({**SFT, **section}).model_dump(exclude={"prompt"})
    return {**TOP, "sft": made, "dropout": 0.1}


def grpo_config(**section: Any) -> dict[str, Any]:
    """Of stage `grpo`; `section` changes its section."""
    from lorapar_core.config import GrpoConfig

    unread = {"prompt", "system_prompt", "max_prompt_length"}
    made = GrpoConfig.model_validate({**GRPO, **section}).model_dump(exclude=unread)
    return {**TOP, "grpo": made, "answer_format": "hash"}
