"""The flow `lorapar` on a real Prefect server of its own: names, states, artifacts, logs.

The server takes 15 s to start, so all tests share it and the three runs that they look at.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_recipe import STAGES, write_tiny_recipe

pytest.importorskip("prefect.server", reason="needs Prefect's server")

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from flows.deployed import lorapar
from flows.places import DEPLOYMENTS, RECIPES
from flows.sweeps import SWEEPS
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import load_recipe

ROOT = Path(__file__).parents[2]
FROM_PARTITION = {"partition", "sft", "evaluate[sft]", "grpo", "evaluate[grpo]", "report"}


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    """A server with an empty database, and a client of it."""
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2}
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings(quick),
        get_client(sync_client=True) as client,
    ):
        yield client


@dataclass(frozen=True)
class Seen:
    """A finished flow run as the server tells it."""

    run: FlowRun
    state: State[Any]
    tasks: dict[str, TaskRun]

    def named(self, state: str) -> set[str]:
        return {name for name, task in self.tasks.items() if task.state_name == state}


@dataclass(frozen=True)
class Flows:
    """Runs the flow on one recipe and one store."""

    client: SyncPrefectClient
    recipe: Path

    def run(self, **parameters: Any) -> Seen:
        state: State[Any] = lorapar(recipe=str(self.recipe), return_state=True, **parameters)
        assert state.state_details.flow_run_id is not None
        run = self.client.read_flow_run(state.state_details.flow_run_id)
        return Seen(run, state, self._tasks(run, wait=state.is_completed()))

    def _tasks(self, run: FlowRun, *, wait: bool) -> dict[str, TaskRun]:
        """Task runs reach the database by way of events, a moment later."""
        these = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        deadline = time.monotonic() + (20 if wait else 0)
        while True:
            found = self.client.read_task_runs(flow_run_filter=these, limit=200)
            ended = all(task.state and task.state.is_final() for task in found)
            if (len(found) == len(STAGES) and ended) or time.monotonic() > deadline:
                return {task.name: task for task in found}
            time.sleep(0.2)


@pytest.fixture(scope="module")
def flows(
    client: SyncPrefectClient, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flows]:
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAPAR_STORE", str(folder / "store"))
        yield Flows(client, write_tiny_recipe(folder / "tiny.yaml", tiny_model))


@pytest.fixture(scope="module")
def first(flows: Flows) -> Seen:
    seen = flows.run()
    assert seen.state.is_completed(), seen.state
    return seen


@pytest.fixture(scope="module")
def second(flows: Flows, first: Seen) -> Seen:
    assert first
    return flows.run()


@pytest.fixture(scope="module")
def other_theta(flows: Flows, second: Seen) -> Seen:
    assert second
    return flows.run(partition={"theta": 0.5}, sft=None)


# Runs


def test_there_is_one_task_run_an_action_named_after_it(first: Seen) -> None:
    assert set(first.tasks) == set(STAGES)
    assert first.named("Completed") == set(STAGES)


def test_the_run_is_named_after_recipe_model_and_theta(first: Seen, other_theta: Seen) -> None:
    assert first.run.name == "tiny-model-theta0.9"
    assert other_theta.run.name == "tiny-model-theta0.5"


def test_a_second_runs_tasks_are_all_cached(first: Seen, second: Seen) -> None:
    assert second.state.is_completed()
    assert second.named("Cached") == set(STAGES)
    ours, before = second.state.result(), first.state.result()
    assert ours["artifacts"] == before["artifacts"]
    assert {stage["action"] for stage in ours["stages"].values()} == {"cached"}


def test_a_sparse_section_keeps_the_rest_of_the_recipe(other_theta: Seen) -> None:
    """A default theta aside, an SFT of the recipe's two steps would not be found in the cache."""
    assert other_theta.state.is_completed()
    assert other_theta.named("Cached") == set(STAGES) - FROM_PARTITION
    assert other_theta.named("Completed") == FROM_PARTITION


def test_its_page_has_the_command_that_makes_it_again(other_theta: Seen) -> None:
    page = Path(other_theta.state.result()["report"]).read_text()
    assert "lorapar run" in page
    assert " --set partition.theta=0.5</code>" in page


@pytest.mark.parametrize("kind", ["progress", "table"])
def test_training_leaves_progress_and_a_table_and_voting_its_progress(
    flows: Flows, first: Seen, kind: str
) -> None:
    these = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[first.run.id]))
    found = {a.key: a for a in flows.client.read_artifacts(artifact_filter=these) if a.type == kind}
    suffix = {"progress": "progress", "table": "metrics"}[kind]
    votes = {"vote-first-progress", "vote-second-progress"} if kind == "progress" else set()
    assert set(found) == {f"sft-{suffix}", f"grpo-{suffix}", *votes}
    for artifact in found.values():
        if kind == "progress":
            assert artifact.data == 100.0
        else:
            assert isinstance(artifact.data, str)
            assert [row["step"] for row in yaml.safe_load(artifact.data)] == [1, 2]


def test_the_summary_is_shown(flows: Flows, first: Seen) -> None:
    these = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[first.run.id]))
    (summary,) = [
        a for a in flows.client.read_artifacts(artifact_filter=these) if a.key == "lorapar-summary"
    ]
    assert "before training" in str(summary.data)
    assert first.state.result()["report"] in str(summary.data)


def test_what_a_child_process_logs_is_among_the_runs_logs(flows: Flows, first: Seen) -> None:
    """Loggers of third parties too, on the task run of their stage."""
    these = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[first.run.id]))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        logs = flows.client.read_logs(log_filter=these, limit=200)
        by_task = {log.task_run_id for log in logs if log.task_run_id}
        messages = [log.message for log in logs]
        if any("step 2" in m for m in messages):
            break
        time.sleep(0.5)
    trained = {first.tasks["sft"].id, first.tasks["grpo"].id}
    assert trained <= by_task
    assert any(m.startswith("step 2") and "loss" in m for m in messages)
    assert any(m.startswith(("lorapar.child", "transformers", "trl")) for m in messages)


# Mistakes


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"partition": {"theta": 1.5}}, "less than or equal to 1"),
        ({"partition": {"thta": 0.5}}, "thta"),
        ({"teachers": []}, "the recipe has no teachers; give at least one"),
        ({"model": {"base": "/no/such/model"}}, "'/no/such/model' is no directory with a model"),
        ({"grpo": {"group_size": 3}}, "no multiple of group_size 3"),
    ],
    ids=str,
)
def test_a_wrong_parameter_fails_the_run_with_its_message(
    flows: Flows, parameters: dict[str, Any], message: str
) -> None:
    seen = flows.run(**parameters)
    assert seen.state.is_failed()
    assert seen.tasks == {}, "nothing was done"
    assert seen.run.state is not None
    assert seen.run.state.message is not None
    with pytest.raises(Exception, match=message):  # Prefect's or ours
        seen.state.result()


def test_a_wrong_recipe_is_named(flows: Flows) -> None:
    state: State[Any] = lorapar(recipe="dem", return_state=True)
    assert state.is_failed()
    assert state.message is not None
    assert "did you mean demo?" in state.message
    with pytest.raises(ConfigError, match="did you mean demo"):
        state.result()


# Deployments


def deployments() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text())
    return {each["name"]: each for each in document["deployments"]}


def test_the_promised_deployments_are_there() -> None:
    made = {f"{flow_of(each).name}/{name}" for name, each in deployments().items()}
    sweeps = {f"lorapar-sweep/{n}" for n in ("theta", "shared", "modules", "labels", "order")}
    assert {"lorapar/full", "lorapar/demo", *sweeps, "lorapar-baselines/all"} <= made


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    file, _, attribute = deployment["entrypoint"].partition(":")
    assert (ROOT / file).is_file()
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    flow = getattr(module, attribute)
    assert isinstance(flow, Flow)
    return flow


@pytest.mark.parametrize("name", sorted(deployments()))
def test_an_entrypoint_is_a_flow_and_takes_the_parameters(name: str) -> None:
    deployment = deployments()[name]
    flow = flow_of(deployment)
    accepted = set(inspect.signature(flow.fn).parameters)
    assert set(deployment["parameters"]) <= accepted
    assert flow.validate_parameters(deployment["parameters"])


@pytest.mark.parametrize("name", sorted(deployments()))
def test_a_deployment_stores_names_and_nothing_else(name: str) -> None:
    """A section stored here would replace the recipe's, and `-p` would replace it whole."""
    parameters = deployments()[name]["parameters"]
    assert set(parameters) - {"sweep"} == {"recipe"}
    assert parameters.get("sweep", "theta") in SWEEPS
    assert load_recipe(parameters["recipe"], recipes=RECIPES).name == parameters["recipe"]


def test_our_loggers_are_among_those_that_prefect_sends() -> None:
    settings = (ROOT / "pyproject.toml").read_text()
    assert 'extra_loggers = "lorapar"' in settings
