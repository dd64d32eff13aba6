"""The pipeline: which actions a recipe comes to, and how they feed each other.

It names no engine. A runner takes an action and gives a promise of its outcome: the Prefect flow
submits tasks (`flows.deployed`), `lorapar run` uses threads (`flows.local`), `lorapar plan` looks
up and runs nothing (`flows.plan`). Imports neither Prefect nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from artifacts import Store
from flows.composition import Run, Runner
from flows.voting import Voting, voter_of
from lorapar_core.attention import require_attention
from lorapar_core.base import Base, fetch, locate
from lorapar_core.config import DataConfig, Recipe, StageConfig, TeacherConfig
from lorapar_core.data import sources
from lorapar_core.data.arithmetic import DEFAULT_COUNT
from lorapar_core.data.choice import Entry, choose, read_source, require_readable
from lorapar_core.engines import engines, require_engine, require_room
from lorapar_core.errors import ConfigError, TooFewExamples
from lorapar_core.launch import require_launchable, require_node_command
from lorapar_core.optimizers import require_optimizer
from lorapar_core.process import require_device
from lorapar_core.quantization import require_quantization
from lorapar_core.rewards.check import require_rewardable, require_rewards
from lorapar_core.sharding import require_shardable
from lorapar_core.teachers.ledger import read_entries
from lorapar_core.teachers.prices import price_of
from lorapar_core.trackers import require_trackers
from tasks.action import UNKNOWN, Action, Input, Outcome
from tasks.evaluate import evaluate
from tasks.initialize import initialize
from tasks.model import Model, dequantize, model_of
from tasks.partition import partition
from tasks.prepare import Located, prepare
from tasks.report import report
from tasks.score import moments, score, shard_bounds
from tasks.tally import tally
from tasks.train import train

TYPICAL_COUNT = 7473  # GSM8K's; only for a plan of data that nobody has counted yet


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to: every outcome, in the order of the pipeline."""

    outcomes: tuple[Outcome, ...]
    adapter: Input
    report: Input
    evaluations: Mapping[str, Outcome]
    """Training stage name, or `base` -> its evaluation."""


def check(recipe: Recipe, *, runs: bool = True) -> None:
    """Refuse what can be known to fail before any work, without the network.

    A plan (`runs` false) takes a package that isn't installed yet.

    Raises:
        ModelError: a model path or package isn't there.
        DataError: a data file isn't there.
        ConfigError: a package or a GPU that the recipe names isn't here, a reward can't be used, so
            many processes can't train together, or vLLM can't run beside them.
    """
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


def models(recipe: Recipe) -> list[tuple[str, str]]:
    """Name and revision of the base and of every other model that a teacher is."""
    base = (recipe.model.base, recipe.model.revision)
    others = {
        (teacher.model, teacher.revision)
        for teacher in recipe.asked
        if teacher.provider == "local" and not _is_base(teacher, recipe)
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
    from flows.plan import PlanRunner  # it composes this very pipeline

    planned = PlanRunner(store)
    pipeline(recipe, planned)
    asked = {
        action.config["teacher"]["name"]
        for action, outcome in planned.actions
        if action.stage == "vote" and outcome.action == "missing" and _unheld(action, store)
    }
    if asked:  # whom the rounds after these ask, hangs on their votes
        asked |= {t.name for t in recipe.asked if recipe.voting.curtailed or t == recipe.judge}
    for teacher in missing:
        if teacher in asked:
            raise ConfigError(
                f"teacher {teacher!r} takes its key from the environment variable "
                f"{missing[teacher]}, which is not set; export it (for runs through Prefect before "
                "the worker starts: `lorapar down`, `lorapar up`), or remove the teacher from the "
                "recipe"
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


def pipeline(recipe: Recipe, runner: Runner) -> Result:
    """Carry out a recipe.

    Raises:
        LoraparError: as the stages and `check` say; `TooFewExamples` before any vote if there can't
            be, and after the tally if there aren't, as many of each system as the importance needs.
    """
    check(recipe, runs=runner.downloads)
    if runner.downloads:
        require_keys(recipe, environment=os.environ, store=runner.store)
        _fetch_models(recipe)
    run = Run(runner)
    train, test = _located(recipe, runner)
    model = _model(run, recipe.model.base, recipe.model.revision)
    prepared = run.one(prepare(recipe, tokenizer=model.tokenizer, train=train, test=test))
    summary = run.read(prepared["summary.json"])
    train_count = summary["train"] if summary else expected_count(recipe, train, test)
    if summary or is_counted(recipe, train):
        _require_enough(recipe, train_count)
    labels, initial = _label(run, recipe, model, prepared, train_count)
    agreement = run.read(labels["agreement.json"])
    if agreement:
        _require_examples(recipe, agreement["counts"])
    base = initial["base"] if recipe.lora.init != "gaussian" else model.base
    masks = _partition(run, recipe, base, initial, prepared, labels)
    return _train(run, recipe, model, base, initial, prepared, labels, masks)


def _fetch_models(recipe: Recipe) -> None:
    """Have every model here before any stage runs.

    Raises:
        ModelError: one can't be found or downloaded.
    """
    for model, revision in models(recipe):
        fetch(locate(model, revision), model=model, revision=revision)


def _model(run: Run, base: str, revision: str, *, label: str = "") -> Model:
    located = locate(base, revision)
    if run.runner.downloads:
        located = fetch(located, model=base, revision=revision)
    return model_of(located, _dequantized(run, located, label))


def _dequantized(run: Run, base: Base, label: str) -> Outcome | None:
    if base.kind != "gguf":
        return None
    return run.one(dequantize(base, name=f"dequantize[{label}]" if label else "dequantize"))


def _located(recipe: Recipe, runner: Runner) -> tuple[Located, Located | None]:
    """Where training and test data come from; no test set of its own is None.

    Raises:
        DataError: a set can't be found or fetched, or the first row of a file can't be used.
    """
    downloads = runner.store.root / "downloads"
    data = recipe.data
    train = Located(
        *sources.locate(
            data.source,
            split="train",
            data=data,
            download_dir=downloads,
            online=runner.downloads,
        )
    )
    test_text = data.test_source or (data.source if sources.has_test(data.source) else "")
    test = None
    if test_text:
        found = sources.locate(
            test_text, split="test", data=data, download_dir=downloads, online=runner.downloads
        )
        test = Located(*found)
    for located in (train, test):
        if located and located.file:
            require_readable(located.source, located.file)
    if train.file:
        require_rewardable(recipe, train.source, train.file)
    return train, test


def expected_count(recipe: Recipe, train: Located, test: Located | None) -> int:
    """Training examples, before anybody has prepared them: a file is read, of the rest it is what
    the recipe asks for. Those that will not fit `sft.max_length` are still in it.

    Raises:
        DataError: a file's row can't be used, or no example is left, as the stage itself would say.
    """
    data = recipe.data
    read = _chosen(data, train, test)
    typical = DEFAULT_COUNT["train"] if train.source.kind in sources.OURS else TYPICAL_COUNT
    return len(read) or data.examples or typical


def expected_entries(recipe: Recipe, runner: Runner) -> list[Entry]:
    """Training examples of a file, before anybody has prepared them; none of what is no file.

    Raises:
        DataError: a file's row can't be used.
    """
    return _chosen(recipe.data, *_located(recipe, runner))


def _chosen(data: DataConfig, train: Located, test: Located | None) -> list[Entry]:
    tested = None if test is None else _read(test, data)  # its rows are looked at in any case
    read = _read(train, data)
    return choose(read, tested, data=data).train if read else []


def is_counted(recipe: Recipe, train: Located) -> bool:
    """Whether there are at most as many as `expected_count` says: it is no guess."""
    return bool(train.file or recipe.data.examples or train.source.kind in sources.OURS)


def _read(located: Located, data: DataConfig) -> list[Entry]:
    """A file's examples; none of a set that isn't a file, or isn't here yet."""
    return read_source(located.source, located.file, data=data)[0] if located.file else []


def _label(
    run: Run, recipe: Recipe, model: Model, prepared: Outcome, count: int
) -> tuple[Outcome, Outcome]:
    """The tally, and the initial adapter, which needs no label and is made meanwhile."""
    voters = [voter_of(teacher, _voter(run, recipe, teacher, model)) for teacher in recipe.asked]
    voting = Voting(
        run,
        recipe,
        voters=voters,
        examples=prepared["examples.parquet"],
        ids=prepared["ids.json"],
        count=count,
        target=target_name(recipe, model.name),
    )
    votes, (initial,) = voting.votes(initialize(recipe, model=model))
    return run.one(tally(recipe, votes=votes, examples=prepared["examples.parquet"])), initial


def target_name(recipe: Recipe, model: str) -> str:
    """The model that teachers play, by name."""
    return recipe.voting.target or model.removeprefix("gguf:").partition("@")[0]


def _voter(run: Run, recipe: Recipe, teacher: TeacherConfig, model: Model) -> Model | None:
    """A local teacher's model: the base itself, or its own."""
    if teacher.provider != "local":
        return None
    if _is_base(teacher, recipe):
        return model
    return _model(run, teacher.model, teacher.revision, label=teacher.name)


def _is_base(teacher: TeacherConfig, recipe: Recipe) -> bool:
    """Whether a local teacher is the base model itself."""
    base = recipe.model
    same = teacher.model == base.base and teacher.revision in ("", base.revision)
    return same or not teacher.model


def _require_enough(recipe: Recipe, count: int) -> None:
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


def _require_examples(recipe: Recipe, counts: Mapping[str, int]) -> None:
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


def _partition(
    run: Run, recipe: Recipe, base: Input, initial: Outcome, prepared: Outcome, labels: Outcome
) -> Outcome:
    """Both systems are scored side by side, shard by shard."""
    bounds = shard_bounds(recipe.importance.examples, recipe.importance.shard_size)
    actions = [
        moments(
            recipe,
            system=system,
            bounds=shard,
            base=base,
            adapter=initial["adapter"],
            tokens=prepared["tokens.parquet"],
            labels=labels["labels.parquet"],
        )
        for system in (1, 2)
        for shard in bounds
    ]
    shards = run(*actions)
    split = {1: shards[: len(bounds)], 2: shards[len(bounds) :]}
    scores = run(*(score(system=s, adapter=initial["adapter"], shards=split[s]) for s in (1, 2)))
    return run.one(partition(recipe, scores={1: scores[0], 2: scores[1]}))


def stage_names(stages: list[StageConfig]) -> list[str]:
    """`sft`, `grpo`; a kind that comes again is counted: `sft[2]`."""
    kinds = [stage.kind for stage in stages]
    return [
        kind if (nth := kinds[: k + 1].count(kind)) == 1 else f"{kind}[{nth}]"
        for k, kind in enumerate(kinds)
    ]


def _train(
    run: Run,
    recipe: Recipe,
    model: Model,
    base: Input,
    initial: Outcome,
    prepared: Outcome,
    labels: Outcome,
    masks: Outcome,
) -> Result:
    evaluations: dict[str, Outcome] = {}
    roles: dict[str, Input] = {
        "summary": prepared["summary.json"],
        "agreement": labels["agreement.json"],
        "regions": masks["regions.json"],
    }

    def test(after: str, kind: str, weights: Input, adapter: Input | None) -> None:
        evaluations[after] = run.one(
            evaluate(
                recipe,
                after=after,
                kind=kind,
                base=weights,
                adapter=adapter,
                tokens=prepared["test_tokens.parquet"],
                examples=prepared["test.parquet"],
            )
        )
        roles[f"evaluation/{after}"] = evaluations[after]["metrics.json"]

    if recipe.evaluation.base:
        test("base", "sft", model.base, None)
    adapter = initial["adapter"]
    for name, stage in zip(stage_names(recipe.stages), recipe.stages, strict=True):
        trained = run.one(
            train(
                recipe,
                stage,
                name=name,
                base=base,
                adapter=adapter,
                initial=initial["adapter"],
                masks=masks["masks.safetensors"],
                labels=labels["labels.parquet"],
                tokens=prepared["tokens.parquet"],
                examples=prepared["examples.parquet"],
            )
        )
        adapter = trained["adapter"]
        roles[f"training/{name}"] = trained["figures.jsonl"]
        test(name, stage.kind, base, adapter)
    page = run.one(report(recipe, model=model.name, inputs={**roles, "adapter": adapter}))
    return Result(
        tuple(run.outcomes),
        adapter,
        page["report.html"] if page.action != "missing" else UNKNOWN,
        evaluations,
    )
