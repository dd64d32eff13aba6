"""The report's part on training: what was rewarded, and every figure over the optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.config import OUR_REWARDS, PAPER_REWARDS
from lorapar_core.report_block import Block, Html, listed
from lorapar_core.report_charts import LOOKS, Series, figure, line

Step = Mapping[str, float]
SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "frac_reward_zero_std": "groups without a spread",
    "completions/mean_length": "mean length of a completion, tokens",
    "grad_norm": "gradient norm of active elements",
    "kl": "KL to the reference",
}
"""trl's name of a figure -> ours; those that a stage has are drawn, in this order."""


def training_blocks(name: str, steps: Sequence[Step]) -> list[Block]:
    """The figures of one stage's steps, drawn, and as they were first and last."""
    shown = [key for key in SHOWN if key in steps[-1] and any(step.get(key) for step in steps)]
    figures = [_curve(steps, key) for key in shown]
    parts = _reward_parts(steps)
    if len(parts) > 1:
        figures.insert(shown.index("reward") + 1 if "reward" in shown else 0, _parts(steps, parts))
    first, last = steps[0], steps[-1]
    rows = [[SHOWN[key], *(_told(step, key) for step in (first, last))] for key in shown]
    words = f"{len(steps)} optimizer steps."
    return [Block(f"Training: {name}", words, ["figure", "first step", "last step"], rows, figures)]


def _told(step: Step, key: str) -> str:
    return f"{step[key]:.4g}" if key in step else "–"


def _curve(steps: Sequence[Step], key: str) -> Html:
    name = SHOWN[key]
    drawn = _series(steps, key, look={"loss": "a", "reward": "b"}.get(key, "c"))
    low, high = min(drawn.y), max(drawn.y)
    chart = line(
        [drawn],
        label=f"{name} over optimizer steps",
        x_label="optimizer step",
        y_label=name,
        y_range=(0.0, 1.0) if key == "frac_reward_zero_std" else None,
    )
    return figure(chart, f"{name}: {low:.4g} to {high:.4g} over {len(drawn.y)} optimizer steps")


def _series(steps: Sequence[Step], key: str, *, look: str, name: str = "") -> Series:
    rows = [step for step in steps if key in step]
    return Series(name, [row["step"] for row in rows], [row[key] for row in rows], look=look)


def _reward_parts(steps: Sequence[Step]) -> list[str]:
    """Rewards whose means were logged."""
    names = (key.split("/")[1] for key in steps[-1] if key.startswith("rewards/"))
    return list(dict.fromkeys(name for name in names if f"rewards/{name}/mean" in steps[-1]))


def _parts(steps: Sequence[Step], names: Sequence[str]) -> Html:
    series = [
        _series(steps, f"rewards/{name}/mean", look=LOOKS[k % len(LOOKS)], name=name)
        for k, name in enumerate(names)
    ]
    chart = line(
        series,
        label="mean of each reward over optimizer steps",
        x_label="optimizer step",
        y_label="mean, before its weight",
    )
    return figure(chart, "Each reward's mean, before its weight.")


def reward_blocks(recipe: Mapping[str, Any]) -> list[Block]:
    """What was rewarded, where that isn't what the paper says."""
    rewards = {name: weight for name, weight in recipe["grpo"]["rewards"].items() if weight}
    others = [name for name in rewards if name not in PAPER_REWARDS]
    if not others or all(stage["kind"] != "grpo" for stage in recipe["stages"]):
        return []
    ours = [name for name in others if name in OUR_REWARDS]
    words = [
        *([f"{listed(ours)}: lorapar's choice, for the paper doesn't say."] if ours else []),
        *(f"{name}: this recipe's own function." for name in others if name not in OUR_REWARDS),
        "The accuracy above compares whole answers with the reference, which says little of free "
        "text and of code.",
    ]
    rows = [[name, f"{weight:g}"] for name, weight in rewards.items()]
    return [Block("Rewards", " ".join(words), ["reward", "weight"], rows)]
