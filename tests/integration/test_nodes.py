"""A training stage on two nodes, both on this machine: as on one, whatever is killed in between.

What starts them is `two_nodes.py`, in place of srun.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from stage_runs import ROOT, stage_spec, start, train
from tiny_inputs import tiny_inputs

COMMAND = [sys.executable, str(ROOT / "tests" / "two_nodes.py"), "--nodes=0,1"]
STEPS = 30
"""Enough of them that a kill comes before the last; two an epoch."""


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("nodes"), tiny_model)


@pytest.fixture(scope="module")
def one_node(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What SFT in two processes of one node ends with."""
    folder = tmp_path_factory.mktemp("one")
    given = stage_spec("sft", inputs, folder / "s", epochs=STEPS / 2, checkpoint_s=1e9)
    return train(given, folder / "out")


def two_nodes(inputs: dict[str, Path], scratch: Path, *, stage: str = "sft", **more: Any) -> Any:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"  # this machine's name may lead nowhere
    own = {"nodes": 2, "processes": 1, "node_command": COMMAND, "main_address": address}
    return stage_spec(stage, inputs, scratch, **own, **more)


def family(launcher: int) -> dict[str, psutil.Process]:
    """The command, nodes and ranks below a launcher, by name."""
    (command,) = psutil.Process(launcher).children()
    found = {"command": command}
    for node in command.children():
        number = node.environ()["NODE_RANK"]
        (rank,) = node.children()
        found |= {f"node {number}": node, f"rank {number}": rank}
    assert len(found) == 5
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("killed", ["launcher", "command", "node 1", "rank 0", "rank 1"])
def test_two_nodes_end_as_one_whatever_was_killed(
    inputs: dict[str, Path], one_node: dict[str, bytes], tmp_path: Path, killed: str
) -> None:
    given = two_nodes(inputs, tmp_path / "s", epochs=STEPS / 2)
    process = start(given, tmp_path / "killed")
    while not list((tmp_path / "s").glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.01)
    below = family(process.pid)
    if killed == "launcher":
        process.kill()
        process.communicate()
    else:
        below[killed].kill()
        _, said = process.communicate(timeout=100)
        assert process.returncode == 1
        (error,) = [line for line in said.splitlines() if line.startswith("lorapar: ")]
        if killed == "command":
            assert "two_nodes.py --nodes=0,1) was killed by signal 9" in error
        if killed.startswith("rank"):
            assert error == f"lorapar: process {killed[-1]} of 2 ended while training"
    _, alive = psutil.wait_procs(list(below.values()), timeout=60)
    assert not alive
    assert train(given, tmp_path / "again") == one_node


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_grpo_on_two_nodes_ends_as_on_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    one = train(stage_spec("grpo", inputs, tmp_path / "one"), tmp_path / "one node")
    two = two_nodes(inputs, tmp_path / "two", stage="grpo")
    assert train(two, tmp_path / "two nodes") == one


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_keeps_a_checkpoint(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = two_nodes(inputs, tmp_path / "s", epochs=200.0)
    process = start(given, tmp_path / "stopped")
    while not list((tmp_path / "s").glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.01)
    below = family(process.pid)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    stopped = re.fullmatch(r"lorapar: stopped after step (\d+) of \d+; .*", said.splitlines()[-1])
    assert stopped, said
    assert (tmp_path / "s" / "checkpoints" / f"step-{int(stopped[1]):08}").is_dir()
    _, alive = psutil.wait_procs(list(below.values()), timeout=60)
    assert not alive
