"""Answer the test problems with the base, or with an adapter on it."""

from __future__ import annotations

from lorapar_core.config import Recipe
from tasks.action import Action, Input
from tasks.model import settings
from tasks.train import answer_format


def evaluate(
    recipe: Recipe,
    *,
    after: str,
    kind: str,
    base: Input,
    adapter: Input | None,
    tokens: Input,
    examples: Input,
) -> Action:
    """`after` names the training stage; `kind` is its kind, which decides the prompt."""
    inputs = {"base": base, "tokens": tokens, "examples": examples}
    if adapter is not None:
        inputs["adapter"] = adapter
    return Action(
        "evaluate",
        f"evaluate[{after}]",
        config={
            "evaluation": recipe.evaluation.model_dump(mode="json", exclude={"base", "benchmarks"}),
            "model": settings(recipe.model),
            "format": kind,
            "answer_format": answer_format(recipe, kind),
        },
        inputs=inputs,
    )
