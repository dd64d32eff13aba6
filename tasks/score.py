"""Score every LoRA element for one system: moments shard by shard, then their merge."""

from __future__ import annotations

from collections.abc import Sequence

from lorapar_core.config import Recipe
from tasks.action import Action, Input, Outcome
from tasks.model import settings


def shard_bounds(count: int, size: int) -> list[tuple[int, int]]:
    """`count` examples as runs of `size`; the last may be short."""
    return [(start, min(count, start + size)) for start in range(0, count, size)]


def moments(
    recipe: Recipe,
    *,
    system: int,
    bounds: tuple[int, int],
    base: Input,
    adapter: Input,
    tokens: Input,
    labels: Input,
) -> Action:
    start, stop = bounds
    return Action(
        "moments",
        f"moments[{system}/{start // recipe.importance.shard_size}]",
        config={
            "system": system,
            "start": start,
            "stop": stop,
            "order_seed": recipe.importance.seed,
            "batch_tokens": recipe.importance.batch_tokens,
            "model": settings(recipe.model),
        },
        inputs={"base": base, "adapter": adapter, "tokens": tokens, "labels": labels},
        units=stop - start,
    )


def score(*, system: int, adapter: Input, shards: Sequence[Outcome]) -> Action:
    inputs = {"adapter": adapter}
    for k, shard in enumerate(shards):
        inputs[f"moments/{k}"] = shard["moments.safetensors"]
        inputs[f"scored/{k}"] = shard["scored.json"]
    return Action("score", f"score[{system}]", config={"system": system}, inputs=inputs)
