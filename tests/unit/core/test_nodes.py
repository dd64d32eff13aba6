"""Nodes as processes of this machine: heard, stopped, ended, and every way in which they fail.

The stage they run needs no torch; tests/integration/test_nodes.py trains.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_inputs import spec

from lorapar_core import events, node, nodes
from lorapar_core.errors import ConfigError, LoraparError, StageFailed, Stopped, TrainingError
from lorapar_core.sole import sole_trainer

ROOT = Path(__file__).parents[3]
TWO_NODES = [sys.executable, str(ROOT / "tests" / "two_nodes.py")]
STAGE = textwrap.dedent(
    """
    import json, logging, os, signal, time
    from dataclasses import replace
    from lorapar_core import events, ranks
    from lorapar_core.errors import Stopped, TrainingError
    from lorapar_core.nodes import train_on_nodes
    from lorapar_core.stopping import stop_request

    def run(spec, out):
        how, rank = spec.config["how"], ranks.rank()
        if how == "launch":
            return train_on_nodes(replace(spec, config={"how": "wait"}), out)
        with stop_request() as stop:
            print("chatter on stdout", flush=True)
            told = {**os.environ, "parent": os.getppid(), "pid": os.getpid()}
            (out / f"{rank}.part").write_text(json.dumps(told))
            (out / f"{rank}.part").rename(out / f"{rank}.json")
            events.progress(step=1, total=2, text=f"{rank} " + "é" * 2000)
            if how == "work":
                return
            while len(list(out.glob("*.json"))) < ranks.world():
                time.sleep(0.01)
            if rank == 1 and how == "refuse":
                raise TrainingError("the disk is full")
            if rank == 1 and how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 1 and how == "node dies":
                os.kill(os.getppid(), signal.SIGKILL)
            if rank == 1 and how == "command dies":
                import psutil
                psutil.Process(os.getppid()).parent().kill()
            while not stop.made:
                time.sleep(0.01)
            raise Stopped("stopped after step 1 of 2")
    """
)


@pytest.fixture(autouse=True)
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has all processes know a stage `teller`, and nodes be quick to live and to end."""
    folder = tmp_path / "stages"
    folder.mkdir()
    (folder / "teller_stage.py").write_text(STAGE)
    (folder / "sitecustomize.py").write_text(
        "from lorapar_core import launch, node, sole\n"
        "from lorapar_core.stages import STAGES, Stage\n"
        "STAGES['teller'] = Stage(1, 'teller_stage')\n"
        "node.BEAT_S = 0.2\n"
        "launch._ENDS_S = 0.5\n"
        "sole.SAY_AFTER_S = 0.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    for name in node.NUMBERS:
        monkeypatch.setenv(name, "7")  # of whatever runs the launcher: nodes mustn't take it


@pytest.fixture
def no_end() -> Iterator[None]:
    """A SIGTERM too early or too late doesn't end the tests. Were it ignored here, all processes
    that they start would ignore it too."""
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, former)


def teller(tmp_path: Path, how: str, command: list[str], **runtime: Any) -> Any:
    runtime = {"nodes": 2, "node_command": command, "main_address": "127.0.0.1:1", **runtime}
    return spec("teller", {"how": how}, {}, tmp_path / "scratch", runtime=runtime)


def run(tmp_path: Path, how: str, *, numbers: str = "0,1", **runtime: Any) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    command = [*TWO_NODES, f"--nodes={numbers}"]
    nodes.train_on_nodes(teller(tmp_path, how, command, **runtime), out)
    return out


def facts(out: Path) -> list[dict[str, Any]]:
    """What each rank was told, in their order."""
    return [json.loads((out / f"{k}.json").read_text()) for k in range(len([*out.glob("*.json")]))]


def require_gone(out: Path, *, ranks: int = 2) -> None:
    """No rank and no node is left."""
    told = facts(out)
    assert len(told) == ranks
    for pid in {each[name] for each in told for name in ("pid", "parent")}:
        with_it = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
        _, alive = psutil.wait_procs(with_it, timeout=20)
        assert not alive


def failing(call: Callable[[], Any]) -> LoraparError:
    with pytest.raises(LoraparError) as raised:
        call()
    return raised.value


def test_two_nodes_of_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passed: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "_sink", passed.append)
    caplog.set_level(logging.INFO)
    out = run(tmp_path, "work", processes=2)
    told = facts(out)
    assert [each["RANK"] for each in told] == ["0", "1", "2", "3"]
    assert [each["LOCAL_RANK"] for each in told] == ["0", "1", "0", "1"]
    assert {each["WORLD_SIZE"] for each in told} == {"4"}
    assert {each["MASTER_ADDR"] + ":" + each["MASTER_PORT"] for each in told} == {"127.0.0.1:1"}
    assert {each["OMP_NUM_THREADS"] for each in told} == {"1"}
    assert {each["CUBLAS_WORKSPACE_CONFIG"] for each in told} == {":4096:8"}
    assert told[0]["parent"] == told[1]["parent"] != told[2]["parent"] == told[3]["parent"]
    assert [event["text"][:3] for event in passed if event["event"] == "progress"] == ["0 é"]
    assert "two nodes: granted" in caplog.messages
    require_gone(out, ranks=4)


def test_by_default_node_0_chooses_address_and_threads(tmp_path: Path) -> None:
    out = run(tmp_path, "work", main_address="", threads=0)
    told = facts(out)
    assert len({each["MASTER_ADDR"] for each in told}) == 1
    assert told[0]["MASTER_ADDR"] == os.uname().nodename
    assert len({each["MASTER_PORT"] for each in told}) == 1
    assert int(told[0]["MASTER_PORT"]) > 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {each["OMP_NUM_THREADS"] for each in told} == {str(cores)}


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("refuse", TrainingError, "the disk is full"),
        ("die", StageFailed, "process 1 of 2 ended while training"),
        ("command dies", StageFailed, r"runtime.node_command \(.*\) was killed by signal 9 too"),
    ],
)
def test_one_failure_ends_all(
    tmp_path: Path, how: str, kind: type[LoraparError], message: str
) -> None:
    error = failing(lambda: run(tmp_path, how))
    assert type(error) is kind
    assert re.match(message, str(error))
    require_gone(tmp_path / "out")


def test_a_node_that_nobody_hears_of_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command may not tell, and the other node's processes may wait for ever."""
    monkeypatch.setattr(nodes, "BEAT_S", 0.2)
    monkeypatch.setattr(nodes, "_SILENT_S", 4.0)
    error = failing(lambda: run(tmp_path, "node dies"))
    assert type(error) is StageFailed
    assert "node 1 has said nothing for 4 s" in str(error)
    require_gone(tmp_path / "out")


@pytest.mark.usefixtures("no_end")
def test_a_stop_reaches_every_process_by_stdin(tmp_path: Path) -> None:
    def stop() -> None:
        while len([*(tmp_path / "out").glob("*.json")]) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    error = failing(lambda: run(tmp_path, "wait"))
    assert type(error) is Stopped
    assert "stopped after step 1" in str(error)
    require_gone(tmp_path / "out")


@pytest.mark.usefixtures("no_end")
def test_a_stop_before_they_came(tmp_path: Path) -> None:
    """The command still waits for its machines."""
    (tmp_path / "out").mkdir()
    script = (
        "import os, sys, threading, time\n"
        "open_still = threading.Thread(target=sys.stdin.read, daemon=True)\n"
        "open_still.start()\n"
        "while open_still.is_alive():\n"
        f"    os.kill({os.getpid()}, 15); time.sleep(0.05)\n"
    )
    given = teller(tmp_path, "wait", python(script))
    error = failing(lambda: nodes.train_on_nodes(given, tmp_path / "out"))
    assert type(error) is Stopped


@pytest.mark.usefixtures("no_end")
def test_a_stop_just_before_they_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They read it while they have nothing to stop."""
    tell = nodes._Nodes.tell

    def late(self: Any, message: dict[str, Any]) -> None:
        if "start" in message:
            os.kill(os.getpid(), signal.SIGTERM)
        tell(self, message)

    monkeypatch.setattr(nodes._Nodes, "tell", late)
    error = failing(lambda: run(tmp_path, "wait"))
    assert type(error) is Stopped


def test_all_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = teller(tmp_path, "launch", [*TWO_NODES, "--nodes=0,1"])
    given.scratch.mkdir()
    (given.scratch / "spec.json").write_text(given.to_json())
    words = [sys.executable, "-m", "lorapar_core", "teller", str(given.scratch / "spec.json")]
    launcher = subprocess.Popen([*words, str(out)], cwd=ROOT)
    while len([*out.glob("*.json")]) < 2:
        assert launcher.poll() is None
        time.sleep(0.01)
    launcher.kill()
    launcher.wait()
    require_gone(out)


def test_nodes_wait_for_those_before_them_to_end(tmp_path: Path) -> None:
    """Whose launcher may be gone."""
    words, out = tmp_path / "words", tmp_path / "out"
    out.mkdir()
    script = f'exec "$@" 2>{shlex.quote(str(words))}'
    given = teller(tmp_path, "work", ["sh", "-c", script, "sh", *TWO_NODES, "--nodes=0,1"])
    held, waited = threading.Event(), threading.Event()

    def before() -> None:
        with sole_trainer(given.scratch):
            held.set()
            while "another process is training this" not in read(words):
                time.sleep(0.01)
            if not [*out.iterdir()]:
                waited.set()

    threading.Thread(target=before, daemon=True).start()
    held.wait()
    nodes.train_on_nodes(given, out)
    assert waited.is_set()
    assert len(facts(out)) == 2


def test_a_node_that_waits_leaves_with_its_launcher(tmp_path: Path) -> None:
    given = teller(tmp_path, "work", ["env", "NODE_RANK=0"])
    request = json.dumps({"spec": json.loads(given.to_json()), "out": str(tmp_path / "out")})
    numbered = {k: value for k, value in os.environ.items() if k not in node.NUMBERS}
    with (
        sole_trainer(given.scratch),
        subprocess.Popen(
            [sys.executable, "-m", "lorapar_core", "--node"],
            cwd=ROOT,
            env={**numbered, "NODE_RANK": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as waiting,
    ):
        try:
            assert waiting.stdin
            assert waiting.stdout
            waiting.stdin.write(request + "\n")
            waiting.stdin.flush()
            assert "here" in waiting.stdout.readline()
            waiting.stdin.close()
            assert waiting.wait(60) == 1
        finally:
            waiting.kill()


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


@pytest.mark.parametrize(
    ("command", "kind", "message"),
    [
        (["no-such-program"], StageFailed, "(no-such-program) can't be started: No such file"),
        (python("exit(3)"), StageFailed, "exited with 3 too early"),
        (["env"], ConfigError, "none of SLURM_NODEID, OMPI_COMM_WORLD_RANK, PMI_RANK, "),
        (
            ["sh", "-c", 'NODE_RANK=1 exec "$@" </dev/null', "sh"],
            ConfigError,
            "node 1 was told nothing; runtime.node_command has to pass stdin on",
        ),
        ([*TWO_NODES, "--nodes=0,0"], ConfigError, "has started node 0 twice"),
        ([*TWO_NODES, "--nodes=1,2"], ConfigError, "a node 2, and runtime.nodes is 2"),
        (
            python("print('@lorapar-node@ 0 . {', flush=True); input()"),
            StageFailed,
            "a line came torn",
        ),
    ],
)
def test_commands_that_do_not_do(
    tmp_path: Path, command: list[str], kind: type[LoraparError], message: str
) -> None:
    (tmp_path / "out").mkdir()
    given = teller(tmp_path, "work", command)
    error = failing(lambda: nodes.train_on_nodes(given, tmp_path / "out"))
    assert type(error) is kind
    assert message in str(error)
    assert not [*(tmp_path / "out").iterdir()]


def test_nodes_that_do_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_COME_S", 0.3)
    command = python("import sys; sys.stdin.read()")
    given = teller(tmp_path, "work", command)
    error = failing(lambda: nodes.train_on_nodes(given, tmp_path))
    assert type(error) is StageFailed
    assert "0 of 2 nodes came within 0 s" in str(error)
    assert shlex.join(command) in str(error)


def test_the_number_is_that_of_the_first_variable() -> None:
    assert node.number({"NODE_RANK": "2", "SLURM_NODEID": "1"}) == 1
    assert node.number({"SLURM_NODEID": "", "GROUP_RANK": "3"}) == 3
    with pytest.raises(ConfigError, match="NODE_RANK is set"):
        node.number({"RANK": "1"})
