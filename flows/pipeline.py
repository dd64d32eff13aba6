"""The pipeline: which actions a recipe comes to, and how they feed each other.

It names no engine. A runner takes an action and gives a promise of its outcome: the Prefect flow
submits tasks (`flows.deployed`), `lorapar run` uses threads (`flows.local`), `lorapar plan` looks
up and runs nothing (`flows.plan_runner`). Imports neither Prefect nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from flows.benchmarks import Benchmarks, located_benchmarks
from flows.composition import Run, Runner
from flows.requirements import (
    check,
    is_base,
    models,
    require_enough,
    require_examples,
    require_keys,
)
from flows.voting import Voting, voter_of
from lorapar_core.base import Base, fetch, locate
from lorapar_core.config import DataConfig, Recipe, StageConfig, TeacherConfig
from lorapar_core.data import sources
from lorapar_core.data.arithmetic import DEFAULT_COUNT
from lorapar_core.data.choice import Entry, choose, read_source, require_readable
from lorapar_core.methods import expanded
from lorapar_core.rewards.check import require_rewardable
from tasks.action import UNKNOWN, Input, Outcome
from tasks.evaluate import evaluate
from tasks.initialize import initialize
from tasks.model import Model, dequantize, model_of
from tasks.partition import partition
from tasks.prepare import Located, prepare
from tasks.profile import profile
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
    benchmarks: Mapping[str, Mapping[str, Outcome]]
    """Benchmark -> training stage name, or `base` -> its evaluation."""


def pipeline(recipe: Recipe, runner: Runner) -> Result:
    """Carry out a recipe.

    Raises:
        LoraparError: as the stages and `check` say; `TooFewExamples` before any vote if there can't
            be, and after the tally if there aren't, as many of each system as the importance needs.
    """
    recipe = expanded(recipe)
    check(recipe, runs=runner.downloads)
    if runner.downloads:
        require_keys(recipe, environment=os.environ, store=runner.store)
        _fetch_models(recipe)
    run = Run(runner)
    train, test = _located(recipe, runner)
    benchmarks = Benchmarks(run, recipe, located_benchmarks(recipe, runner))
    model = _model(run, recipe.model.base, recipe.model.revision)
    prepared = run.one(prepare(recipe, tokenizer=model.tokenizer, train=train, test=test))
    summary = run.read(prepared["summary.json"])
    train_count = summary["train"] if summary else expected_count(recipe, train, test)
    if recipe.needs_masks and (summary or is_counted(recipe, train)):
        require_enough(recipe, train_count)
    benchmarks.read()
    labels: Outcome | None = None
    scored: tuple[Outcome, Outcome] | None = None
    if recipe.needs_labels:
        labels, initial = _label(run, recipe, model, prepared, train_count)
    else:
        initial = run.one(initialize(recipe, model=model))
    residual = recipe.lora.residual and recipe.peft.kind == "lora"
    base = initial["base"] if residual else model.base
    if labels and recipe.needs_masks:
        agreement = run.read(labels["agreement.json"])
        if agreement:
            require_examples(recipe, agreement["counts"])
        scored = _partition(run, recipe, base, initial, prepared, labels)
    return _train(run, recipe, model, base, initial, prepared, labels, scored, benchmarks)


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
        ids=run.read(prepared["ids.json"]),
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
    if is_base(teacher, recipe):
        return model
    return _model(run, teacher.model, teacher.revision, label=teacher.name)


def _partition(
    run: Run, recipe: Recipe, base: Input, initial: Outcome, prepared: Outcome, labels: Outcome
) -> tuple[Outcome, Outcome]:
    """The profile and the masks. Both systems are scored side by side, shard by shard."""
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
    both = {1: scores[0], 2: scores[1]}
    profiled, masks = run(profile(scores=both), partition(recipe, scores=both))
    return profiled, masks


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
    labels: Outcome | None,
    scored: tuple[Outcome, Outcome] | None,
    benchmarks: Benchmarks,
) -> Result:
    """`scored`: the profile and the masks, where elements are chosen."""
    evaluations: dict[str, Outcome] = {}
    roles: dict[str, Input] = {"summary": prepared["summary.json"]}
    if labels:
        roles["agreement"] = labels["agreement.json"]
    profiled, masks = scored or (None, None)
    if profiled and masks:
        roles["profile"] = profiled["profile.json"]
        roles["regions"] = masks["regions.json"]

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
        roles[f"predictions/{after}"] = evaluations[after]["predictions.parquet"]
        benchmarks.measure(after, kind, weights, adapter)

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
                masks=masks["masks.safetensors"] if masks else None,
                labels=labels["labels.parquet"] if labels else None,
                tokens=prepared["tokens.parquet"],
                examples=prepared["examples.parquet"],
            )
        )
        adapter = trained["adapter"]
        roles[f"training/{name}"] = trained["figures.jsonl"]
        test(name, stage.kind, base, adapter)
    roles |= benchmarks.roles
    page = run.one(report(recipe, model=model.name, inputs={**roles, "adapter": adapter}))
    return Result(
        tuple(run.outcomes),
        adapter,
        page["report.html"] if page.action != "missing" else UNKNOWN,
        evaluations,
        benchmarks.measured,
    )
