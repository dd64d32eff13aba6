"""The Prefect flow `lorapar`: the pipeline with one Prefect task an action.

Prefect shows the cache and does not own it: tasks cache nothing and persist no result. A hit is
returned as a state named *Cached*, and a future of that state gives the outcome.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect import flow, runtime, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.logging import get_logger, get_run_logger
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from artifacts import Store
from flows.command import run_command
from flows.headline import headline, parts
from flows.healing import healing
from flows.paper import recipe_of
from flows.pipeline import pipeline
from flows.requirements import check
from flows.sparse import given, sparse
from flows.summary import accuracy_tables, stage_table, summarize
from lorapar_core.config import (
    DataConfig,
    EvaluationConfig,
    GrpoConfig,
    ImportanceConfig,
    LoraConfig,
    Method,
    ModelConfig,
    PartitionConfig,
    PeftConfig,
    Recipe,
    RuntimeConfig,
    SftConfig,
    StageConfig,
    TeacherConfig,
    VotingConfig,
)
from lorapar_core.errors import LoraparError, StageFailed
from lorapar_core.stages import STAGES
from tasks.action import Action, Outcome
from tasks.children import Children
from tasks.stage import look_up, perform
from tasks.train import TRAINING

RETRY_DELAY_S = 5
TRIAL_TAG = "trial:"
"""Before a trial's name, among the tags of its run, which has its deployment's too."""
MOST_ROWS = 200
"""Of a table in the UI: the server keeps every version."""
_THREADS: Any = ThreadPoolTaskRunner(max_workers=32)

DataFields = sparse(DataConfig)
VotingFields = sparse(VotingConfig)
ModelFields = sparse(ModelConfig)
LoraFields = sparse(LoraConfig)
PeftFields = sparse(PeftConfig)
ImportanceFields = sparse(ImportanceConfig)
PartitionFields = sparse(PartitionConfig)
SftFields = sparse(SftConfig)
GrpoFields = sparse(GrpoConfig)
EvaluationFields = sparse(EvaluationConfig)
RuntimeFields = sparse(RuntimeConfig)


def _work(action: Action, store: Store, children: Children, recipe: Recipe) -> State[Outcome]:
    """The body of every task: the action's outcome, as *Cached* or *Completed*."""
    found = look_up(action, store)
    if found is None:
        listener = _Listener(action)
        found = perform(
            action, store=store, children=children, runtime=recipe.runtime, listen=listener
        )
        listener.close()
    if found.action == "cached":
        return Completed(name="Cached", message="found in the store", data=found)
    return Completed(message=f"computed in {found.seconds:.1f} s", data=found)


TASKS = {
    stage: task(name=stage, cache_policy=NO_CACHE, persist_result=False)(_work) for stage in STAGES
}
"""One task a stage, so that the UI groups and counts them by stage."""


def _died(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a stage's process was killed, or failed with an error that isn't ours, such as a lack
    of memory. What a stage refuses it would refuse again."""
    return isinstance(state.result(raise_on_failure=False), StageFailed)


class PrefectRunner:
    """Submits each action as a task of the running flow."""

    downloads = True

    def __init__(self, recipe: Recipe, *, store: Store, children: Children) -> None:
        self.store = store
        self._recipe = recipe
        self._children = children

    def submit(self, action: Action) -> PrefectFuture[Any]:
        trains = action.stage in TRAINING
        named = TASKS[action.stage].with_options(
            task_run_name=action.name,
            retries=self._recipe.runtime.retries if trains else 0,
            retry_delay_seconds=RETRY_DELAY_S,
            retry_condition_fn=_died,
        )
        return named.submit(action, self.store, self._children, self._recipe)


class _Listener:
    """Shows a stage in the UI: its logs, the progress of voting and training, and training's
    figures."""

    every_s = 5.0
    table_every_s = 60.0
    """A new version of the table of figures; each is kept by the server."""

    def __init__(self, action: Action) -> None:
        self._action = action
        self._log = get_run_logger()
        self._trains = action.stage in TRAINING
        self._unit = {"vote": "votes", **dict.fromkeys(TRAINING, "optimizer steps")}.get(
            action.stage
        )
        self._progress: UUID | None = None
        self._rows: list[dict[str, Any]] = []
        self._last = 0.0
        self._tabled = time.monotonic()
        self._guard = threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "log":
            self._log.log(event["level"], "%s: %s", event["logger"], event["message"])
        elif event["event"] == "progress":
            self._step(event)

    def _step(self, event: Mapping[str, Any]) -> None:
        figures = headline(event)
        if self._trains:
            self._rows.append({"step": event["step"], **figures, **parts(event)})
        now, done = time.monotonic(), event["step"] == event["total"]
        if now - self._last < self.every_s and not done:
            return
        self._last = now
        told = {"step": f"{event['step']}/{event['total']}", **figures}
        self._log.info("%s", "  ".join(f"{k} {_short(v)}" for k, v in told.items()))
        if self._unit:
            with self._guard, self._shown():
                self._show(100.0 * event["step"] / max(1, event["total"]))
                if self._trains and now - self._tabled >= self.table_every_s:
                    self._tabled = now
                    self._show_table()

    def _show(self, percent: float) -> None:
        if self._progress is None:
            key = _artifact_key(self._action.name, "progress")
            made = create_progress_artifact(
                percent, key=key, description=f"{self._action.name}: {self._unit}"
            )
            self._progress = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._progress, progress=percent)

    def close(self) -> None:
        """Leave the training figures as a table."""
        if self._trains and self._rows:
            with self._guard, self._shown():
                self._show_table()

    def _show_table(self) -> None:
        every = -(-len(self._rows) // MOST_ROWS)  # the last one among them
        create_table_artifact(
            self._rows[::-1][::every][::-1],
            key=_artifact_key(self._action.name, "metrics"),
            description=f"{self._action.name}: figures of each optimizer step",
        )

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Hours of training don't end because the server that shows them is away."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever the client raises; the work goes on
            self._log.warning(
                "%s is not shown: %s: %s", self._action.name, type(error).__name__, error
            )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _artifact_key(name: str, kind: str) -> str:
    """Prefect's keys are lower-case letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() else " " for c in f"{name} {kind}").lower().split())


def sweep_tag(sweep: UUID) -> str:
    """By which the trials of a sweep's run are found."""
    return f"sweep:{sweep}"


def trial_tags(sweep: UUID, trial: str) -> list[str]:
    """Of the run of a sweep's trial."""
    return [sweep_tag(sweep), f"{TRIAL_TAG}{trial}"]


def trial_of(tags: Iterable[str]) -> str:
    """The name of the trial that a run with these tags is, or nothing."""
    named = (tag.removeprefix(TRIAL_TAG) for tag in tags if tag.startswith(TRIAL_TAG))
    return next(named, "")


def _run_name() -> str:
    """Model, and theta or the method, before the flow starts, and of a sweep's trial its name; a
    wrong recipe gets a plain one."""
    parameters = dict(runtime.flow_run.parameters or {})
    try:
        recipe = _recipe(parameters)
    except (LoraparError, KeyError) as error:
        get_logger("lorapar").debug("no run name: %s", error)
        return f"lorapar-{parameters.get('recipe', 'recipe')}"
    model = recipe.model.base.rstrip("/").rpartition("/")[2].removeprefix("gguf:")
    if trial := trial_of(runtime.flow_run.tags or []):
        return f"{recipe.name}-{model}: {trial}"
    theta = f"theta{recipe.partition.theta:g}"
    return f"{recipe.name}-{model}-{theta if recipe.method == 'lora-par' else recipe.method}"


def _recipe(parameters: dict[str, Any]) -> Recipe:
    sections = {name: value for name, value in parameters.items() if name != "recipe"}
    return recipe_of(parameters["recipe"], given(sections))


@flow(
    name="lorapar",
    flow_run_name=_run_name,
    task_runner=_THREADS,
    persist_result=False,
)
def lorapar(
    recipe: str = "demo",
    method: Method | None = None,
    data: DataFields | None = None,  # type: ignore[valid-type]
    teachers: list[TeacherConfig] | None = None,
    voting: VotingFields | None = None,  # type: ignore[valid-type]
    model: ModelFields | None = None,  # type: ignore[valid-type]
    lora: LoraFields | None = None,  # type: ignore[valid-type]
    peft: PeftFields | None = None,  # type: ignore[valid-type]
    importance: ImportanceFields | None = None,  # type: ignore[valid-type]
    partition: PartitionFields | None = None,  # type: ignore[valid-type]
    stages: list[StageConfig] | None = None,
    sft: SftFields | None = None,  # type: ignore[valid-type]
    grpo: GrpoFields | None = None,  # type: ignore[valid-type]
    evaluation: EvaluationFields | None = None,  # type: ignore[valid-type]
    runtime: RuntimeFields | None = None,  # type: ignore[valid-type]
) -> dict[str, Any]:
    """Fine-tune with LoRA-PAR: vote, score, partition, SFT, GRPO, evaluate, report.

    Args:
        recipe: a shipped recipe's name, a .yaml file on the worker, or a cell of the paper's
            tables (`table4/gsm8k/pissa`). Every other parameter is sparse: what you leave out has
            the recipe's value.
        method: LoRA-PAR, or a baseline with the same data and steps.
        data: what is learned from, and what is tested on.
        teachers: who votes; replaces the recipe's list whole.
        voting: how votes become labels.
        model: the model that is fine-tuned.
        lora: the adapter.
        peft: a baseline's adapter that isn't LoRA.
        importance: what the elements are scored on.
        partition: theta, alpha and beta.
        stages: training stages in order; replaces the recipe's list whole.
        sft: supervised fine-tuning.
        grpo: group-relative policy optimization.
        evaluation: greedy generation on the test problems, and benchmarks.
        runtime: where and how it runs; changes no result.
    """
    sections = {name: value for name, value in locals().items() if name != "recipe"}
    command = run_command(recipe, given(sections))
    merged = recipe_of(recipe, given(sections))
    check(merged)
    store = Store.open()
    started = time.monotonic()
    with Children(merged.runtime, merged.teachers) as children:
        runner = PrefectRunner(merged, store=store, children=children)
        summary = healing(
            lambda: summarize(pipeline(merged, runner), recipe=merged, store=store, command=command)
        )
    summary["seconds"] = round(time.monotonic() - started, 1)
    return _publish(summary, merged, store)


def _publish(summary: dict[str, Any], recipe: Recipe, store: Store) -> dict[str, Any]:
    """Keep the run's summary in the store under the flow run's id, and show it in the UI."""
    from prefect.runtime import flow_run

    store.write_run(str(flow_run.id or f"{recipe.name[:40]}-{int(time.time())}"), summary)
    tables = [*accuracy_tables(summary), stage_table(summary)]
    shown = "\n\n".join(f"```\n{table}\n```" for table in tables)
    create_markdown_artifact(
        f"{shown}\n\nReport on the worker: `{summary['report']}`",
        key="lorapar-summary",
        description=f"{recipe.name}: accuracy and stages",
    )
    logging.getLogger("lorapar").info("report: %s", summary["report"])
    return summary
