"""The Prefect flows `lorapar-sweep` and `lorapar-baselines`: each trial is a flow run of its own.

The parent creates runs of `lorapar/full` with sparse parameters, a few at a time, and waits; any
worker that sees the store takes them, and each fails, is retried and resumes alone. A trial's run
is found again by an idempotency key made of the parent's id and the trial's name: a parent that is
tried again takes finished trials as they are, waits for those under way, and has those tried again
that failed or whose results are no longer whole in the store. At the end it compares what is in the
store, has carried out once more what it finds corrupt or gone there, and fails if a trial is
missing, so that it can be retried. A parent that is cancelled cancels the trials under way.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, cast
from uuid import UUID

from prefect import flow
from prefect import runtime as under_prefect
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.states import Cancelling, Scheduled
from pydantic import PositiveInt

from artifacts import Store
from flows.command import sweep_command
from flows.deployed import (
    DataFields,
    EvaluationFields,
    GrpoFields,
    ImportanceFields,
    LoraFields,
    ModelFields,
    PartitionFields,
    PeftFields,
    PrefectRunner,
    RuntimeFields,
    SftFields,
    VotingFields,
    sweep_tag,
    trial_tags,
)
from flows.gathering import is_whole
from flows.healing import healing
from flows.local_sweep import RUNTIME
from flows.requirements import check
from flows.sparse import given
from flows.sweep_summary import compared, failed_line
from flows.sweep_tables import sweep_tables
from flows.sweeps import Sweep, Trial, sweep_named, trials
from lorapar_core.config import Recipe, StageConfig, TeacherConfig
from lorapar_core.errors import StageFailed
from lorapar_core.recipe import merge
from tasks.children import Children

FULL = "lorapar/full"
POLL_S = 2.0
SweepName = Literal["theta", "shared", "modules", "labels", "order", "baselines"]


class Trials:
    """Carries trials out as flow runs, `at_once` at a time."""

    def __init__(
        self,
        sweep: Sweep,
        found: Sequence[Trial],
        *,
        recipe: str,
        parent: UUID,
        at_once: int,
        store: Store,
    ) -> None:
        self._sweep = sweep
        self._waiting = deque(found)
        self._recipe = recipe
        self._parent = parent
        self._at_once = at_once
        self._store = store
        self._runs: dict[Trial, UUID] = {}
        self._under_way: dict[UUID, Trial] = {}
        self._failed: dict[UUID, Trial] = {}
        self._repeated: set[Trial] = set()
        self._log = get_run_logger()

    def carry_out(self) -> dict[str, str]:
        """Wait for every trial; returns the names of those that failed, with what they ended on.

        One that finished and is not in the store is carried out once more. Called again, it looks
        for those alone.
        """
        self._repeated.clear()
        with get_client(sync_client=True) as client:
            while self._waiting or self._under_way or self._take_up(client):
                while self._waiting and len(self._under_way) < self._at_once:
                    self._begin(client, self._waiting.popleft())
                time.sleep(POLL_S)
                for run_id in list(self._under_way):
                    self._look_at(client, run_id)
            return {
                trial.name: _ending(client.read_flow_run(run_id))
                for run_id, trial in self._failed.items()
            }

    def _begin(self, client: SyncPrefectClient, trial: Trial) -> None:
        """Create the trial's run, or find it again; one that failed before is tried again, and so
        is one whose results are not in the store."""
        run = self._run_of(client, trial)
        self._under_way[run.id] = trial
        self._runs[trial] = run.id
        if run.state is None or not run.state.is_final():
            return
        if not (run.state.is_completed() and self._is_whole(trial)):
            # As `prefect flow-run retry` does.
            state: State[Any] = Scheduled(message="retried with its sweep")
            client.set_flow_run_state(run.id, state, force=True)
            self._repeated.add(trial)
            self._log.info("%s: tried again", trial.name)

    def _run_of(self, client: SyncPrefectClient, trial: Trial) -> FlowRun:
        if trial in self._runs:
            return client.read_flow_run(self._runs[trial])
        run = run_deployment(
            FULL,
            parameters={"recipe": self._recipe, **trial.sections},
            timeout=0,
            tags=trial_tags(self._parent, trial.name),
            idempotency_key=f"{self._parent}/{trial.name}",
        )
        return cast(FlowRun, run)

    def _look_at(self, client: SyncPrefectClient, run_id: UUID) -> None:
        run = client.read_flow_run(run_id)
        if run.state is None or not run.state.is_final():
            return
        trial = self._under_way.pop(run_id)
        if run.state.is_completed():
            self._log.info("%s: finished", trial.name)
        else:
            self._failed[run_id] = trial
            self._log.warning("%s: %s", trial.name, _ending(run))

    def _take_up(self, client: SyncPrefectClient) -> bool:
        """When all have ended: whether there is more to do."""
        self._take_up_retried(client)
        self._take_up_lost()
        return bool(self._waiting or self._under_way)

    def _take_up_retried(self, client: SyncPrefectClient) -> None:
        """Somebody may have retried a trial that failed while others were under way."""
        for run_id in list(self._failed):
            run = client.read_flow_run(run_id)
            if run.state and (run.state.is_completed() or not run.state.is_final()):
                self._under_way[run_id] = self._failed.pop(run_id)

    def _take_up_lost(self) -> None:
        """Those that finished and are not in the store wait to be carried out again, each once."""
        others = {*self._under_way, *self._failed}
        for trial, run_id in self._runs.items():
            if run_id in others or trial in self._repeated or self._is_whole(trial):
                continue
            self._log.warning("%s: finished, but its results are not in the store", trial.name)
            self._waiting.append(trial)

    def _is_whole(self, trial: Trial) -> bool:
        return is_whole(self._sweep, trial, self._store)


def _ending(run: FlowRun) -> str:
    state = run.state
    return f"{state.name}: {state.message or ''}".strip(": ") if state else "no state"


def _name() -> str:
    parameters = dict(under_prefect.flow_run.parameters or {})
    return f"{parameters.get('sweep', 'sweep')}-{parameters.get('recipe', 'recipe')}"


def _sweep(
    sweep: SweepName,
    recipe: str = "lab",
    seeds: list[int] = [0, 1, 2],  # noqa: B006  Prefect shows it, nobody changes it
    at_once: PositiveInt = 2,
    only: list[str] = [],  # noqa: B006
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
    """Train at every point of a sweep with several seeds, and compare.

    Args:
        sweep: what is varied.
        recipe: a shipped recipe's name, or a .yaml file on the worker. The sections after it are
            sparse, hold for every trial, and can't change what the sweep varies.
        seeds: of initialization, scoring, partition and training; data and votes stay.
        at_once: trials under way side by side, on all workers together.
        only: the sweep's points of these labels; all of them, if there are none.
        data: what is learned from, and what is tested on.
        teachers: who votes; replaces the recipe's list whole.
        voting: how votes become labels.
        model: the model that is fine-tuned.
        lora: the adapter.
        peft: adapters that aren't LoRA, for those methods.
        importance: what the elements are scored on.
        partition: theta, alpha and beta.
        stages: training stages in order; replaces the recipe's list whole.
        sft: supervised fine-tuning.
        grpo: group-relative policy optimization.
        evaluation: greedy generation on the test problems.
        runtime: where and how it runs; changes no result. One thread a process, unless it says so.
    """
    sections = {
        "data": data,
        "teachers": teachers,
        "voting": voting,
        "model": model,
        "lora": lora,
        "peft": peft,
        "importance": importance,
        "partition": partition,
        "stages": stages,
        "sft": sft,
        "grpo": grpo,
        "evaluation": evaluation,
        "runtime": runtime,
    }
    definition = sweep_named(sweep)
    overrides = merge({"runtime": {"threads": RUNTIME["threads"]}}, given(sections))
    found = trials(definition, recipe, seeds=seeds, overrides=overrides, only=only)
    for trial in found:
        check(trial.recipe, runs=False)
    command = sweep_command(sweep, recipe, given(sections), seeds=seeds, only=only)
    store = Store.open()
    started = time.monotonic()
    carried = Trials(
        definition, found, recipe=recipe, parent=_run_id(), at_once=at_once, store=store
    )
    with Children(found[0].recipe.runtime) as children:
        runner = PrefectRunner(found[0].recipe, store=store, children=children)
        summary = healing(lambda: _attempt(definition, found, carried, runner, command))
    summary["seconds"] = round(time.monotonic() - started, 1)
    return _publish(summary, found[0].recipe, store)


def _attempt(
    sweep: Sweep, found: Sequence[Trial], carried: Trials, runner: PrefectRunner, command: str
) -> dict[str, Any]:
    failed = carried.carry_out()
    return compared(sweep, found, failed, runner=runner, command=command)


def _run_id() -> UUID:
    found = under_prefect.flow_run.id
    if found is None:
        raise StageFailed(
            "a sweep's trials are flow runs; run it through Prefect, or `lorapar sweep`"
        )
    return UUID(str(found))


def _publish(summary: dict[str, Any], recipe: Recipe, store: Store) -> dict[str, Any]:
    """Keep the summary in the store under the flow run's id, and show it in the UI.

    Raises:
        StageFailed: trials failed; the others' comparison is kept and shown all the same.
    """
    store.write_run(str(_run_id()), summary)
    failed = failed_line(summary)
    told_first = f"{failed}\n\n" if failed else ""
    create_markdown_artifact(
        f"{told_first}```\n{sweep_tables(summary['results'])}\n```\n\n"
        f"Report on the worker: `{summary['report']}`",
        key="lorapar-sweep-summary",
        description=f"{summary['sweep']} of {recipe.name}: points and claims",
    )
    if failed:
        raise StageFailed(f"{failed}; retry this run, which goes on with them")
    return summary


def _cancel_trials(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Nobody waits any more for what a cancelled sweep has under way. (Prefect gives the arguments
    by name.)"""
    under_way = [kind for kind in StateType if kind not in TERMINAL_STATES]
    these = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[sweep_tag(flow_run.id)]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way)),
    )
    with get_client(sync_client=True) as client:
        for trial in client.read_flow_runs(flow_run_filter=these, limit=200):
            client.set_flow_run_state(trial.id, _CANCELLING)


_CANCELLING: State[Any] = Cancelling()
_HOW: dict[str, Any] = {
    "flow_run_name": _name,
    "persist_result": False,
    "on_cancellation": [_cancel_trials],
}
sweep = flow(name="lorapar-sweep", **_HOW)(_sweep)
baselines = flow(name="lorapar-baselines", **_HOW)(_sweep)
