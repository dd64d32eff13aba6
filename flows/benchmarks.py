"""A recipe's benchmarks: where their problems come from, what they need, and who is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flows.composition import Run, Runner
from lorapar_core.config import BenchmarkConfig, DataConfig, Recipe
from lorapar_core.data import sources
from lorapar_core.data.benchmark_sets import gather, require_asked_so
from lorapar_core.data.problems import Kind
from lorapar_core.data.sources import Source, Split
from lorapar_core.errors import ConfigError
from lorapar_core.sandbox import require_sandbox
from tasks.action import Action, Input, Outcome
from tasks.benchmark import benchmark, measure
from tasks.prepare import Located
from tasks.stage import look_up

HUB_SETS: Mapping[str, tuple[Source, str]] = {
    "gsm8k": (Source("hub", "openai/gsm8k", config="main", split="test"), "train"),
    "svamp": (Source("hub", "ChilleD/SVAMP", split="test"), "train"),
    "mmlu": (Source("hub", "cais/mmlu", config="all", split="test"), "dev"),
    "humaneval": (Source("hub", "openai/openai_humaneval", split="test"), ""),
}
"""Task -> its set on the hub, and the split that worked examples come from."""


def check_benchmarks(recipe: Recipe, *, runs: bool = True) -> None:
    """Refuse a benchmark that can't be, without the network and without reading its data.

    Raises:
        ConfigError: no such named set, a revision of a file, or programs can't be run apart from
            the rest of the machine.
        DataError: no such file, or a kind of file that can't be read.
    """
    for config in recipe.evaluation.benchmarks:
        for text in (config.source, config.shots_source):
            if text:
                sources.check(text)
        if config.revision and sources.is_file(config.source):
            raise ConfigError(
                f"benchmark {config.label!r} has a revision, which a file has none of; leave it out"
            )
    if runs and any(config.task == "humaneval" for config in recipe.evaluation.benchmarks):
        require_sandbox(recipe.runtime.sandbox)


@dataclass(frozen=True)
class Benchmarks:
    """The benchmarks of one run, each read once."""

    run: Run
    recipe: Recipe
    located: tuple[tuple[Located, Located | None], ...]
    problems: dict[str, Outcome] = field(default_factory=dict)
    measured: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    """Benchmark -> training stage, or `base` -> its evaluation."""

    def read(self) -> None:
        """Read every benchmark, which needs no model, so that one that can't be asked so is known
        before any vote.

        Raises:
            ConfigError: programs can't be run apart from the rest of the machine.
            DataError: a row can't be used, or can't be asked so.
        """
        configs = self.recipe.evaluation.benchmarks
        actions = [
            benchmark(config, test=test, shots=shots)
            for config, (test, shots) in zip(configs, self.located, strict=True)
        ]
        for config, outcome in zip(configs, self.run(*actions), strict=True):
            self.problems[config.label] = outcome
            told = self.run.read(outcome["benchmark.json"])
            if told:
                _require_askable(
                    self.recipe, config, self.run.runner, told["kind"], told["in_words"]
                )

    def measure(self, after: str, kind: str, base: Input, adapter: Input | None) -> None:
        """Put every benchmark that asks for it to a model."""
        actions = list(self._actions(after, kind, base, adapter))
        for (name, _), outcome in zip(actions, self.run(*(a for _, a in actions)), strict=True):
            self.measured.setdefault(name, {})[after] = outcome

    def _actions(
        self, after: str, kind: str, base: Input, adapter: Input | None
    ) -> Iterator[tuple[str, Action]]:
        wanted = "base" if after == "base" else "trained"
        benchmarks = self.recipe.evaluation.benchmarks
        for config in benchmarks:
            if config.models not in ("all", wanted):
                continue
            yield (
                config.label,
                measure(
                    self.recipe,
                    config,
                    after=after,
                    kind=kind,
                    base=base,
                    adapter=adapter,
                    problems=self.problems[config.label],
                ),
            )

    @property
    def roles(self) -> dict[str, Input]:
        """What a report reads of them."""
        roles: dict[str, Input] = {}
        for name, outcome in self.problems.items():
            roles[f"benchmark/{name}"] = outcome["benchmark.json"]
        for name, by_stage in self.measured.items():
            for after, outcome in by_stage.items():
                roles[f"measured/{after}/{name}"] = outcome["metrics.json"]
                roles[f"predictions/{after}/{name}"] = outcome["predictions.parquet"]
        return roles


def located_benchmarks(
    recipe: Recipe, runner: Runner
) -> tuple[tuple[Located, Located | None], ...]:
    """Where each benchmark's problems and worked examples come from. Files that nobody has read
    yet are read through, so that a row that can't be used is known before any work.

    Raises:
        ConfigError: programs can't be run apart from the rest of the machine, or a source has no
            rows of its own.
        DataError: a set can't be found or fetched, a row can't be used, or can't be asked so.
    """
    return tuple(_located(recipe, config, runner) for config in recipe.evaluation.benchmarks)


def _located(
    recipe: Recipe, config: BenchmarkConfig, runner: Runner
) -> tuple[Located, Located | None]:
    test = _place(config, config.source, "test", runner)
    shots = _place(config, config.shots_source, "train", runner) if config.shots else None
    action = benchmark(config, test=test, shots=shots)
    here = test.file and (shots is None or shots.file)
    if here and look_up(action, runner.store) is None:
        files = {"set": test.file, "shots_set": shots.file if shots else None}
        shown = gather(action.config, {role: file for role, file in files.items() if file})
        _require_askable(recipe, config, runner, shown.kind, shown.in_words)
    return test, shots


def _place(config: BenchmarkConfig, text: str, split: Split, runner: Runner) -> Located:
    downloads = runner.store.root / "downloads"
    if text:
        revision = config.revision if text == config.source else ""
        data = DataConfig(source=text, revision=revision)
        found, file = sources.locate(
            text, split=split, data=data, download_dir=downloads, online=runner.downloads
        )
        if found.kind in sources.OURS:
            raise ConfigError(
                f"benchmark {config.label!r} has source {text}, whose problems have no file; give "
                "a file or a hub set, or test on them with data.test_source"
            )
        return Located(found, file)
    source, shots_split = HUB_SETS[config.task]
    if split == "train":
        source = Source(source.kind, source.name, config=source.config, split=shots_split)
    at = sources.at_commit(source, config.revision, download_dir=downloads, online=runner.downloads)
    return Located(at, None)


def _require_askable(
    recipe: Recipe, config: BenchmarkConfig, runner: Runner, kind: Kind, in_words: str
) -> None:
    require_asked_so(
        kind,
        prompt=config.prompt,
        samples=config.samples,
        shots=bool(config.shots),
        in_words=in_words,
    )
    if kind == "code" and runner.downloads:
        require_sandbox(recipe.runtime.sandbox)
