"""What a recipe needs, looked at before any work: packages, models, keys, prices, files, examples.

Imports neither Prefect nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from artifacts import Store
from flows.benchmarks import check_benchmarks
from lorapar_core.attention import require_attention
from lorapar_core.base import fetch, locate
from lorapar_core.config import Recipe, TeacherConfig
from lorapar_core.data import sources
from lorapar_core.engines import engines, require_engine, require_room
from lorapar_core.errors import ConfigError, TooFewExamples
from lorapar_core.launch import require_launchable, require_node_command
from lorapar_core.methods import expanded, require_sound
from lorapar_core.optimizers import require_optimizer
from lorapar_core.process import require_device
from lorapar_core.quantization import require_quantization
from lorapar_core.rewards.check import require_rewards
from lorapar_core.sharding import require_shardable
from lorapar_core.teachers.ledger import read_entries
from lorapar_core.teachers.prices import price_of
from lorapar_core.trackers import require_trackers
from tasks.action import Action


def check(recipe: Recipe, *, runs: bool = True) -> None:
    """Refuse what can be known to fail before any work, without the network.

    A plan (`runs` false) takes a package that isn't installed yet.

    Raises:
        ModelError: a model path or package isn't there.
        DataError: a data file isn't there.
        ConfigError: a package or a GPU that the recipe names isn't here, a reward can't be used, so
            many processes can't train together, vLLM can't run beside them, what a benchmark has
            the model write can't be run apart, or the adapter can't be trained as the stages say.
    """
    recipe = expanded(recipe)
    require_sound(recipe)
    require_launchable(recipe)
    require_shardable(recipe)
    require_room(recipe)
    require_rewards(recipe, runs=runs)
    require_prices(recipe)
    require_replays(recipe)
    if runs:
        require_device(recipe.runtime)
        for require in _packages(recipe):
            require()
    for model, revision in models(recipe):
        located = locate(model, revision)
        if runs and located.kind == "gguf":
            fetch(located, model=model)
    for text in (recipe.data.source, recipe.data.test_source):
        if text:
            sources.check(text)
    check_benchmarks(recipe, runs=runs)


def models(recipe: Recipe) -> list[tuple[str, str]]:
    """Name and revision of the base and of every other model that a teacher is."""
    base = (recipe.model.base, recipe.model.revision)
    others = {
        (teacher.model, teacher.revision)
        for teacher in recipe.asked
        if teacher.provider == "local" and not is_base(teacher, recipe)
    }
    return [base, *sorted(others)]


def _packages(recipe: Recipe) -> list[Callable[[], None]]:
    """Calls that raise ConfigError, each if a package that the recipe needs isn't installed,
    or the program that starts its nodes."""
    optimizers = sorted({getattr(recipe, stage.kind).optimizer for stage in recipe.stages})
    return [
        *(partial(require_optimizer, name) for name in optimizers),
        partial(require_quantization, recipe.model.quantization),
        partial(require_attention, recipe.model.attention),
        *(partial(require_engine, name) for name in engines(recipe)),
        partial(require_trackers, recipe.runtime.trackers),
        partial(require_node_command, recipe.runtime),
    ]


def missing_packages(recipe: Recipe) -> list[str]:
    """What a run would refuse for want of a package, for a plan."""
    said = []
    for require in _packages(recipe):
        try:
            require()
        except ConfigError as error:
            said.append(str(error))
    return said


def lacking(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """What this machine lacks for any of the recipes, each once, as a plan's fields: models that
    are `absent`, `missing_packages`, and `missing_keys`, the variables of teachers."""
    names = dict.fromkeys(model for recipe in recipes for model in models(recipe))
    packages = dict.fromkeys(said for recipe in recipes for said in missing_packages(recipe))
    each = [missing_keys(recipe, environment=os.environ) for recipe in recipes]
    return {
        "absent": [name for name, revision in names if not locate(name, revision).path],
        "missing_packages": list(packages),
        "missing_keys": sorted({variable for keys in each for variable in keys.values()}),
    }


def missing_keys(recipe: Recipe, *, environment: Mapping[str, str]) -> dict[str, str]:
    """Teacher -> a variable that should hold its key and doesn't."""
    return {
        teacher.name: variable
        for teacher in recipe.asked
        for variable in teacher.variables
        if not environment.get(variable)
    }


def require_keys(recipe: Recipe, *, environment: Mapping[str, str], store: Store) -> None:
    """Refuse to start without the keys of the teachers that are still to be asked.

    Raises:
        ConfigError: a variable is not set.
    """
    missing = missing_keys(recipe, environment=environment)
    if not missing:
        return
    from flows.pipeline import pipeline  # which begins with these checks
    from flows.plan_runner import PlanRunner

    planned = PlanRunner(store)
    pipeline(recipe, planned)
    asked = {
        action.config["teacher"]["name"]
        for action, outcome in planned.actions
        if action.stage == "vote" and outcome.action == "missing" and _unheld(action, store)
    }
    if asked:  # whom the rounds after these ask, hangs on their votes
        asked |= {t.name for t in recipe.asked if recipe.voting.curtailed or t == recipe.judge}
    absent = {teacher: name for teacher, name in missing.items() if teacher in asked}
    if absent:
        told = ", ".join(f"{teacher!r} from {name}" for teacher, name in absent.items())
        raise ConfigError(
            f"teachers take their keys from environment variables that are not set: {told}; export "
            "them (for runs through Prefect before the worker starts: `lorapar down`, `lorapar "
            "up`), or remove the teachers from the recipe"
        )


def _unheld(action: Action, store: Store) -> bool:
    """Whether a vote action has votes to buy: those that the ledger doesn't hold, if its examples
    are known."""
    ids = action.site["ids"]
    held = read_entries(store.ledger(action.ledger)).votes if action.ledger and ids else {}
    return not ids or any(i not in held for i in ids)


def require_prices(recipe: Recipe) -> None:
    """Refuse a cap in dollars where nobody knows what a teacher costs.

    Raises:
        ConfigError: as said.
    """
    if recipe.runtime.budget_usd is None:
        return
    for teacher in recipe.asked:
        if price_of(teacher) is None:
            raise ConfigError(
                f"runtime.budget_usd is {recipe.runtime.budget_usd:g}, and the price of teacher "
                f"{teacher.name!r} ({teacher.model}) is unknown; give its input_usd and output_usd "
                "(dollars a million tokens, 0 for a server of your own), or leave the cap out"
            )


def require_replays(recipe: Recipe) -> None:
    """Refuse a file of votes that isn't there.

    Raises:
        ConfigError: as said.
    """
    for teacher in recipe.asked:
        if teacher.provider == "replay" and not Path(teacher.model).expanduser().is_file():
            raise ConfigError(
                f"teacher {teacher.name!r} replays {teacher.model}, and there is no such file; "
                "give a Parquet file of votes"
            )


def is_base(teacher: TeacherConfig, recipe: Recipe) -> bool:
    """Whether a local teacher is the base model itself."""
    base = recipe.model
    same = teacher.model == base.base and teacher.revision in ("", base.revision)
    return same or not teacher.model


def require_enough(recipe: Recipe, count: int) -> None:
    """Stop before a vote is bought where no labels could give each system enough.

    Raises:
        TooFewExamples: with the count, and what to change.
    """
    wanted = recipe.importance.examples
    if count < 2 * wanted:
        raise TooFewExamples(
            f"the data has {count} training examples, and importance.examples asks for {wanted} of "
            "each system; take more data (data.examples), or lower importance.examples"
        )


def require_examples(recipe: Recipe, counts: Mapping[str, int]) -> None:
    """Stop where a system has too few examples to be scored on.

    Raises:
        TooFewExamples: with the counts, and what to change.
    """
    wanted = recipe.importance.examples
    short = [system for system in ("1", "2") if counts[system] < wanted]
    if short:
        raise TooFewExamples(
            f"System {' and '.join(short)} has too few examples: the labels are "
            f"{counts['1']} System 1, {counts['2']} System 2, {counts['dropped']} dropped, and "
            f"importance.examples asks for {wanted} of each; take more data (data.examples), lower "
            "importance.examples, or change the teachers or their calibration"
        )
