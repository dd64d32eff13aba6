"""The pipeline as far as the labels, in this process: data, votes and tally, with no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_recipe import tiny_recipe

from artifacts import Ref, Store
from flows import pipeline
from flows.composition import Run
from flows.local import LocalRunner, Say
from lorapar_core.config import Recipe
from lorapar_core.parquet import read_table
from lorapar_core.recipe import merge, parse_recipe
from tasks.action import Outcome
from tasks.prepare import prepare

EXAMPLES = 24


@dataclass(frozen=True)
class Voted:
    """What it came to."""

    actions: Mapping[str, str]
    """Name -> cached or computed."""
    outcomes: Mapping[str, Outcome]
    labels: Mapping[str, int]
    agreement: Mapping[str, Any]


def remote(name: str, url: str, **changed: Any) -> dict[str, Any]:
    """A teacher on loopback that costs a dollar a million tokens."""
    price = {"input_usd": 1.0, "output_usd": 1.0}
    return {"name": name, "model": f"openai/{name}", "api_base": url, **price, **changed}


def voting_recipe(model: Path, teachers: list[dict[str, Any]], **sections: Any) -> Recipe:
    """The tiny recipe with these teachers."""
    fields = {"name": "votes", **tiny_recipe(model), "teachers": teachers}
    return parse_recipe(merge(fields, sections))


def vote_only(recipe: Recipe, store: Path, *, say: Say = lambda _line: None) -> Voted:
    """Carry it out as `lorapar run` does, up to the tally.

    Raises:
        LoraparError: as the pipeline says.
    """
    opened = Store.open(store)
    pipeline.check(recipe)
    with LocalRunner(recipe, store=opened, say=say) as runner:
        run = Run(runner)
        model = pipeline._model(run, recipe.model.base, recipe.model.revision)
        train, test = pipeline._located(recipe, runner)
        prepared = run.one(prepare(recipe, tokenizer=model.tokenizer, train=train, test=test))
        tally, _ = pipeline._label(run, recipe, model, prepared, recipe.data.examples)
    return Voted(
        actions={outcome.name: outcome.action for outcome in run.outcomes},
        outcomes={outcome.name: outcome for outcome in run.outcomes},
        labels=_labels(opened, tally["labels.parquet"]),
        agreement=opened.read_json(_ref(tally["agreement.json"])),
    )


def _labels(store: Store, table: Any) -> dict[str, int]:
    columns = read_table(store.path(_ref(table)), ["example_id", "system"])
    return dict(zip(*columns.values(), strict=True))


def _ref(value: Any) -> Ref:
    assert isinstance(value, Ref)
    return value
