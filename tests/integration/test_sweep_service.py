"""A sweep through Prefect: each trial a flow run, one that is killed, a parent tried again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_service import Service, wait_for
from tiny_recipe import write_tiny_recipe

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


def parent(service: Service) -> dict[str, object]:
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
def test_a_killed_trial_loses_no_other_and_is_taken_up_by_the_retried_sweep(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    start(service, tiny_model, tmp_path)
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
    assert first["parent_task_run_id"], "it stands under its sweep in the UI"
    document = json.loads((service.home / f"store/runs/{failed['id']}.json").read_text())
    (lost,) = document["failed"]
    assert lost["trial"] == "SFT then RL, seed 3"
    assert lost["error"].startswith("Crashed")
    done = [bool(point["phases"]) for point in document["results"]["points"]]
    assert done == [False, True]

    assert service.prefect("flow-run", "retry", str(failed["id"])).returncode == 0
    wait_for(lambda: parent(service)["run_count"] == 2, seconds=60)
    wait_for(lambda: parent(service)["state_type"] in ENDED, seconds=300)
    assert parent(service)["state_type"] == "COMPLETED"
    runs = service.runs_of("lorapar")
    assert len(runs) == 2, "no trial was made again"
    assert {run["id"]: run["run_count"] for run in runs} == {first["id"]: 2, second["id"]: 1}
    document = json.loads((service.home / f"store/runs/{failed['id']}.json").read_text())
    assert document["failed"] == []
    assert [claim["seeds"] for claim in document["results"]["claims"]] == [[3], [3]]
