"""A sweep through Prefect: each trial a flow run that any worker takes, one that is killed, a
parent tried again, and a store that has lost what a trial had made."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from own_service import Service, wait_for
from tiny_recipe import write_tiny_recipe

from artifacts import Store
from flows.service import free_port

ENDED = ("COMPLETED", "FAILED", "CRASHED")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "home", free_port())
    made.home.mkdir()
    yield made
    made.lorapar("down")
    for process in made.processes():
        process.kill()


def parent(service: Service) -> dict[str, Any]:
    (run,) = service.runs_of("lorapar-sweep")
    return run


def start(service: Service, model: Path, folder: Path, **sections: object) -> None:
    """A server and a worker, and a sweep of two trials, one after the other."""
    assert service.lorapar("up", "--port", str(service.port)).returncode == 0
    recipe = write_tiny_recipe(folder / "tiny.yaml", model, **sections)
    words = (f"recipe={recipe}", "seeds=[3]", "at_once=1")
    options = [word for given in words for word in ("--param", given)]
    started = service.prefect("deployment", "run", "lorapar-sweep/order", *options)
    assert started.returncode == 0, started.stdout + started.stderr
    wait_for(lambda: bool(service.children()), seconds=180)


def workers(service: Service) -> list[psutil.Process]:
    return [one for one in service.processes() if {"worker", "--pool"} <= {*one.cmdline()}]


def retry(service: Service, *, times: int) -> None:
    """Have the sweep's run begin for the `times`-th time, and wait for its end."""
    assert service.prefect("flow-run", "retry", str(parent(service)["id"])).returncode == 0
    wait_for(lambda: parent(service)["run_count"] == times, seconds=60)
    wait_for(lambda: parent(service)["state_type"] in ENDED, seconds=300)
    assert parent(service)["state_type"] == "COMPLETED"


def document(service: Service, run: dict[str, Any]) -> dict[str, Any]:
    """What a run has left in the store under its id."""
    found: dict[str, Any] = json.loads((service.home / f"store/runs/{run['id']}.json").read_text())
    return found


def computed(service: Service, run: dict[str, Any]) -> list[str]:
    """What a run computed when it was last carried out."""
    stages = document(service, run)["stages"]
    return [name for name, stage in stages.items() if stage["action"] == "computed"]


def harm(service: Service, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Lose the second trial's adapter, change a byte of the first's predictions, and have nothing
    compared yet."""
    store = Store.open(service.home / "store", create=False)
    theirs = document(service, second)["artifacts"]
    (store.root / "cas" / theirs["adapter"][:2] / theirs["adapter"]).unlink()
    predictions = document(service, first)["artifacts"]["evaluate[grpo]/predictions.parquet"]
    assert predictions not in theirs.values(), "it is the first's alone"
    path = store.root / "cas" / predictions[:2] / predictions
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for record in store.records():
        if record.stage == "sweep":
            (store.root / "actions" / f"{record.key}.json").unlink()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cancelled_sweep_cancels_its_trials(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    start(service, tiny_model, tmp_path, grpo={"max_steps": 150, "max_completion_length": 16})
    (run,) = service.runs_of("lorapar-sweep")
    service.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for(lambda: parent(service)["state_type"] == "CANCELLED", seconds=120)
    wait_for(lambda: service.runs_of("lorapar")[0]["state_type"] == "CANCELLED", seconds=120)
    wait_for(lambda: not service.children(), seconds=60)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_worker_takes_the_next_trial(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    """The first worker stands still from the first trial on, as one whose machine is lost."""
    start(service, tiny_model, tmp_path)
    (first,) = workers(service)
    command = ["worker", "start", "--pool", "lorapar", "--type", "process", "--name", "second"]
    with service.begun("prefect", *command) as second:
        first.suspend()
        try:
            wait_for(lambda: parent(service)["state_type"] in ENDED, seconds=300)
            assert parent(service)["state_type"] == "COMPLETED"
        finally:
            first.resume()
        assert [run["state_type"] for run in service.runs_of("lorapar")] == ["COMPLETED"] * 2
        second.terminate()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_retried_sweep_takes_up_a_killed_trial_and_what_the_store_has_lost(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    steep = {"learning_rate": 0.05}  # the last trainings' predictions differ
    start(service, tiny_model, tmp_path, sft=steep, grpo=steep)
    flow = service.children()[0].parent()
    assert flow is not None
    flow.send_signal(signal.SIGKILL)
    wait_for(lambda: parent(service)["state_type"] in ENDED, seconds=300)

    failed = parent(service)
    assert failed["state_type"] == "FAILED"
    first, second = service.runs_of("lorapar")
    assert (first["state_type"], second["state_type"]) == ("CRASHED", "COMPLETED")
    assert [stage["kind"] for stage in second["parameters"]["stages"]] == ["grpo", "sft"]
    assert second["parameters"]["sft"] == {"seed": 3}
    assert first["name"] == "tiny-model: SFT then RL, seed 3"
    assert first["parent_task_run_id"], "it stands under its sweep in the UI"
    told = document(service, failed)
    (lost,) = told["failed"]
    assert lost["trial"] == "SFT then RL, seed 3"
    assert lost["error"].startswith("Crashed")
    done = [bool(point["phases"]) for point in told["results"]["points"]]
    assert done == [False, True]

    retry(service, times=2)
    runs = service.runs_of("lorapar")
    assert len(runs) == 2, "no trial was made again"
    assert {run["id"]: run["run_count"] for run in runs} == {first["id"]: 2, second["id"]: 1}
    told = document(service, failed)
    assert told["failed"] == []
    assert [claim["seeds"] for claim in told["results"]["claims"]] == [[3], [3]]

    harm(service, first, second)
    retry(service, times=3)
    runs = service.runs_of("lorapar")
    assert {run["id"]: run["run_count"] for run in runs} == {first["id"]: 3, second["id"]: 2}
    assert computed(service, second) == ["sft"], "its adapter was gone"
    assert computed(service, first) == ["evaluate[grpo]"], "the comparison found it corrupt"
    again = document(service, failed)
    assert again["failed"] == []
    assert again["artifacts"] == told["artifacts"], "as if nothing had happened"
