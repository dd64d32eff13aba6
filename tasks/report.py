"""Put what a run found on one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorapar_core.config import Recipe
from lorapar_core.data.sources import is_file
from tasks.action import Action, Input
from tasks.vote import SITE, api_host


def report(recipe: Recipe, *, model: str, inputs: Mapping[str, Input]) -> Action:
    """The page tells the whole recipe, so all of it is in the key, its name too; no path is."""
    config = {"recipe": told_recipe(recipe, model), "model": model}
    return Action("report", "report", config=config, inputs=dict(inputs))


def told_recipe(recipe: Recipe, model: str) -> dict[str, Any]:
    """The recipe as it may be told: no runtime, no path, no key's name, no password in a URL."""
    told = recipe.model_dump(mode="json", exclude={"runtime"})
    told["model"]["base"] = model
    for name in ("source", "test_source"):
        told["data"][name] = _last_part(told["data"][name], of_file=is_file(told["data"][name]))
    for benchmark in told["evaluation"]["benchmarks"]:
        for name in ("source", "shots_source"):
            benchmark[name] = _last_part(benchmark[name], of_file=is_file(benchmark[name]))
    for teacher, fields in zip(recipe.teachers, told["teachers"], strict=True):
        for site in SITE - {"api_base"}:
            del fields[site]
        fields["api_base"] = api_host(teacher)
        of_file = teacher.provider != "litellm" and Path(teacher.model).expanduser().exists()
        fields["model"] = _last_part(teacher.model, of_file=of_file)
    return told


def _last_part(text: str, *, of_file: bool) -> str:
    """The name at the end of a path or URL; anything else as it is."""
    _, gguf, place = text.rpartition("gguf:")
    if of_file or "://" in place or place.endswith(".gguf") or place.startswith(("/", ".", "~")):
        return gguf + place.partition("?")[0].rstrip("/").rpartition("/")[2]
    return text
