"""Runs under a real Prefect server and worker that are stopped while GRPO trains.

Whatever stops them, they go on from a checkpoint and end with the bytes of a run that was left in
peace.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from own_service import ROOT, Service, wait_for
from tiny_recipe import write_tiny_recipe

from artifacts import Store
from flows.service import free_port

LONG = {"max_steps": 60, "max_completion_length": 16, "kl_coefficient": 0.1}
TIMED = "metrics.jsonl"
"""The role that tells speeds."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    return write_tiny_recipe(
        folder / "tiny.yaml", tiny_model, grpo=LONG, runtime={"checkpoint_s": 0.5, "child": "once"}
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("stopped") / "home", free_port())
    made.home.mkdir()
    up = made.lorapar("up", "--port", str(made.port))
    assert up.returncode == 0, up.stderr
    yield made
    made.lorapar("down")
    for process in made.processes():
        process.kill()


@pytest.fixture(scope="module")
def in_peace(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Role -> digest of what GRPO makes undisturbed, without Prefect."""
    store = tmp_path_factory.mktemp("peace") / "store"
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(recipe), "--store", str(store), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])["artifacts"]
    return {r: d for r, d in found.items() if r.startswith("grpo/") and not r.endswith(TIMED)}


@pytest.fixture
def training(service: Service, recipe: Path) -> Service:
    """The service, with a run of the recipe whose GRPO has kept a checkpoint and trains on."""
    store = Store.open(service.home / "store")
    for record in store.records():
        if record.stage in ("grpo", "report") or record.name == "evaluate[grpo]":
            (store.root / "actions" / f"{record.key}.json").unlink()  # as if nobody had run it
    started = service.prefect("deployment", "run", "lorapar/full", "--param", f"recipe={recipe}")
    assert started.returncode == 0, started.stderr
    wait_for(lambda: service.task_states().get("grpo") == "Running", seconds=180)
    wait_for(lambda: bool(checkpoints(service)), seconds=120)
    return service


def checkpoints(service: Service) -> list[Path]:
    return list((service.home / "store" / "progress").glob("*.json"))


def retry(service: Service) -> None:
    retried = service.prefect("flow-run", "retry", service.flow_run()["id"])
    assert retried.returncode == 0, retried.stdout + retried.stderr
    wait_for(lambda: service.flow_run()["run_count"] >= 2, seconds=120)


def check(service: Service, in_peace: dict[str, str], *, resumes: int = 1) -> None:
    """The run completes, GRPO has gone on from a checkpoint, and has the same bytes."""
    wait_for(lambda: service.flow_run()["state_type"] in ENDED, seconds=240)
    run = service.flow_run()
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    (record,) = (r for r in Store.open(service.home / "store").records() if r.stage == "grpo")
    made = {f"grpo/{role}": ref.digest for role, ref in record.outputs.items() if role != TIMED}
    assert made == in_peace
    resumed = record.provenance["resumed"]
    assert len(resumed) == resumes
    assert all(entry["exact"] and entry["step"] > 0 for entry in resumed)
    assert checkpoints(service) == []


def flow_process(service: Service) -> psutil.Process:
    (child,) = service.children()
    flow = child.parent()
    assert flow is not None
    return flow


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cancelled_in_the_ui(training: Service, in_peace: dict[str, str]) -> None:
    run = training.flow_run()["id"]
    training.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for(lambda: training.flow_run()["state_type"] in ENDED, seconds=90)
    assert training.flow_run()["state_type"] == "CANCELLED"
    wait_for(lambda: not training.children(), seconds=30)
    retry(training)
    check(training, in_peace)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_from_outside(training: Service, in_peace: dict[str, str]) -> None:
    flow_process(training).send_signal(signal.SIGTERM)
    wait_for(lambda: training.flow_run()["state_type"] in ENDED, seconds=90)
    assert training.flow_run()["state_type"] == "CRASHED"
    wait_for(lambda: not training.children(), seconds=30)
    retry(training)
    check(training, in_peace)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trainer_that_is_killed_is_tried_again_by_its_task(
    training: Service, in_peace: dict[str, str]
) -> None:
    (child,) = training.children()
    child.kill()
    check(training, in_peace)
    assert training.flow_run()["run_count"] == 1
    states = training.post("task_runs/filter", {"task_runs": {"name": {"any_": ["grpo"]}}})
    assert max(run["run_count"] for run in states) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_deployment_run_again(
    training: Service, in_peace: dict[str, str], recipe: Path
) -> None:
    flow = flow_process(training)
    flow.kill()
    wait_for(lambda: training.flow_run()["state_type"] == "CRASHED", seconds=120)
    first = training.flow_run()["id"]
    training.prefect("deployment", "run", "lorapar/full", "--param", f"recipe={recipe}")
    wait_for(lambda: training.flow_run()["id"] != first, seconds=60)
    check(training, in_peace)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_worker_and_flow_killed_and_this_worker_s_disk_gone(
    training: Service, in_peace: dict[str, str]
) -> None:
    """The automation ends the run *Crashed*; a new worker goes on from what the store has."""
    flow = flow_process(training)
    daemon = json.loads((training.home / ".local/state/lorapar/worker.json").read_text())
    worker = psutil.Process(daemon["pid"])
    worker.kill()
    flow.kill()
    psutil.wait_procs([worker, flow], timeout=10)
    wait_for(lambda: not training.children(), seconds=10)
    began = time.monotonic()
    assert training.flow_run()["state_type"] == "RUNNING"
    wait_for(lambda: training.flow_run()["state_type"] == "CRASHED", seconds=300)
    assert "no sign of life" in training.flow_run()["state"]["message"]
    print(f"crashed after {time.monotonic() - began:.0f} s")
    shutil.rmtree(training.home / "store" / "scratch")
    up = training.lorapar("up", "--port", str(training.port))
    assert up.returncode == 0, up.stderr
    retry(training)
    check(training, in_peace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_up_twice_makes_the_automation_once(service: Service) -> None:
    again = service.lorapar("up", "--port", str(service.port))
    assert again.returncode == 0, again.stderr
    found: list[dict[str, Any]] = service.post("automations/filter", {})
    (ours,) = found
    assert ours["name"] == "lorapar-lost-runs"
    assert ours["enabled"] is True
    assert ours["trigger"]["within"] == 120
