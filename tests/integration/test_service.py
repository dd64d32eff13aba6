"""`lorapar up`, a run through its worker that is killed and tried again, `status`, `down`.

The state directory and the home are empty folders of the test's own, so no Prefect of the user's
is touched.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from own_service import Service, wait_for
from tiny_recipe import STAGES, write_tiny_recipe

from flows import cli
from flows.service import free_port

AFTER_GRPO = {"grpo", "evaluate[grpo]", "report"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "home", free_port())
    made.home.mkdir()
    yield made
    made.lorapar("down")
    for process in made.processes():
        process.kill()


LONG = {"max_steps": 150, "max_completion_length": 16}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_stopped_by_down_can_be_retried(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    assert service.lorapar("up", "--port", str(service.port)).returncode == 0
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, grpo=LONG)
    service.prefect("deployment", "run", "lorapar/full", "--param", f"recipe={recipe}")
    wait_for(lambda: service.task_states().get("grpo") == "Running", seconds=120)
    down = service.lorapar("down")
    assert down.stdout.splitlines()[:2] == ["runs stopped: 1", "stopped the worker"]
    assert service.processes() == []

    assert service.lorapar("up", "--port", str(service.port)).returncode == 0
    assert service.flow_run()["state_type"] == "CRASHED"
    retried = service.prefect("flow-run", "retry", service.flow_run()["id"])
    assert retried.returncode == 0, retried.stdout + retried.stderr
    wait_for(lambda: service.task_states().get("grpo") == "Running", seconds=120)

    # A worker that is killed leaves its run behind; `down` finds it.
    worker = psutil.Process(
        json.loads((service.home / ".local/state/lorapar/worker.json").read_text())["pid"]
    )
    worker.kill()
    worker.wait(10)
    assert any("--serve" in process.cmdline() for process in service.processes())
    service.lorapar("down")
    assert service.processes() == []


@pytest.mark.timeout(600)
def test_a_killed_run_is_tried_again_and_nothing_stays(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    assert service.lorapar("status").returncode == 3
    up = service.lorapar("up", "--port", str(service.port))
    assert up.returncode == 0, up.stderr
    assert f"ready: http://127.0.0.1:{service.port}" in up.stdout
    status = service.lorapar("status")
    assert status.returncode == 0
    assert status.stdout.count("running, pid") == 2
    again = service.lorapar("up", "--port", str(service.port))
    assert again.returncode == 0, again.stderr
    assert "starting" not in again.stdout, "what runs is kept"

    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", tiny_model, grpo=LONG)
    started = service.prefect("deployment", "run", "lorapar/full", "--param", f"recipe={recipe}")
    assert started.returncode == 0, started.stderr

    wait_for(lambda: service.task_states().get("grpo") == "Running", seconds=120)
    time.sleep(1)
    (child,) = [p for p in service.processes() if "--serve" in p.cmdline()]
    flow = child.parent()
    assert flow is not None
    flow.send_signal(signal.SIGKILL)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running(), "a child dies with the flow's process"
    wait_for(lambda: service.flow_run()["state_type"] == "CRASHED", seconds=120)

    retried = service.prefect("flow-run", "retry", service.flow_run()["id"])
    assert retried.returncode == 0, retried.stdout + retried.stderr
    ended = ("COMPLETED", "FAILED", "CRASHED")
    wait_for(lambda: service.flow_run()["run_count"] == 2, seconds=60)
    wait_for(lambda: service.flow_run()["state_type"] in ended, seconds=180)

    run = service.flow_run()
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["name"] == "tiny-model-theta0.9"
    wait_for(lambda: service.task_states().get("report") == "Completed", seconds=20)
    states = service.task_states()
    assert set(states) == set(STAGES)
    assert {name for name, state in states.items() if state == "Completed"} == AFTER_GRPO
    assert {name for name, state in states.items() if state == "Cached"} == set(STAGES) - AFTER_GRPO

    down = service.lorapar("down")
    assert down.returncode == 0
    # The process of a run that has just completed may still be ending.
    assert down.stdout.splitlines()[-2:] == ["stopped the worker", "stopped the server"]
    assert service.processes() == []
    assert service.lorapar("status").returncode == 3


def test_up_names_a_port_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORAPAR_HOME", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["up", "--port", str(port)]) == 1
    said = capsys.readouterr()
    assert f"port {port} is taken by another program" in said.err
    assert len(said.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_down_and_status_take_files_that_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process number that is another program's by now is not ours to stop."""
    monkeypatch.setenv("LORAPAR_HOME", str(tmp_path))
    (tmp_path / "server.json").write_text("{half")
    stale = {"name": "worker", "pid": os.getpid(), "port": 1, "store": "/s"}
    (tmp_path / "worker.json").write_text(json.dumps(stale))
    assert cli.main(["status"]) == 3
    assert capsys.readouterr().out.count("not running") == 2
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
