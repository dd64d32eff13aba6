"""A training stage in two processes (gloo): both end alike, a kill changes nothing.

Each with the whole base, or sharing it (FSDP2).
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from stage_runs import CPU_BUILD, finish, stage_spec, start, train
from tiny_inputs import MODEL, run_stage, spec, steady_files, tiny_inputs

from lorapar_core.parquet import read_table

SHARDINGS = ["none", pytest.param("fsdp", marks=CPU_BUILD)]
LIMITED = f'ulimit -f 8; exec {sys.executable} -m lorapar_core "$@"'


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("ddp"), tiny_model)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_processes_killed_in_between_end_with_the_same_bytes(
    inputs: dict[str, Path], tmp_path: Path, stage: str, sharding: str
) -> None:
    more = {"epochs": 15.0, "sharding": sharding}  # long enough to be killed in
    undisturbed = stage_spec(stage, inputs, tmp_path / "s", checkpoint_s=1e9, **more)
    straight = train(undisturbed, tmp_path / "straight")
    given = stage_spec(stage, inputs, tmp_path / "k", **more)
    process = start(given, tmp_path / "killed")
    while not list((tmp_path / "k").glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert len(gone) == 2
    assert not alive, "a rank dies with its launcher"
    assert train(given, tmp_path / "again") == straight
    # As if it had been killed after its last step: the checkpoint has all there is.
    assert train(given, tmp_path / "once more") == straight


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_is_told_as_such(inputs: dict[str, Path], tmp_path: Path) -> None:
    """And not by the process that lost its connection to the one whose disk was full."""
    given = stage_spec("sft", inputs, tmp_path / "s")
    process = start(given, tmp_path / "out", words=["bash", "-c", LIMITED, "limited"])
    _, said = process.communicate(timeout=250)
    assert process.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("lorapar: the checkpoint of step 1 can't be written to ")
    assert "File too large" in last


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_step_has_as_many_examples_as_in_one_process(
    inputs: dict[str, Path], tmp_path: Path, sharding: str
) -> None:
    """The same steps, over the same examples; without dropout they differ by rounding only."""

    def trained(processes: int, **runtime: Any) -> dict[str, Any]:
        scratch = tmp_path / f"{processes}"
        given = stage_spec("sft", inputs, scratch, processes=processes, **runtime)
        given.config["dropout"] = 0.0
        out = tmp_path / f"out {processes}"
        train(given, out)
        lines = (out / "figures.jsonl").read_text().splitlines()
        found = load_file(out / "adapter" / "adapter_model.safetensors")
        return {"rows": [json.loads(line) for line in lines], "adapter": found}

    one, two = trained(1), trained(2, sharding=sharding)
    assert len(one["rows"]) == len(two["rows"]) == 4
    for alone, together in list(zip(one["rows"], two["rows"], strict=True))[:2]:  # same weights
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    for alone, together in zip(one["rows"], two["rows"], strict=True):
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-2)
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-3)
    start = load_file(inputs["adapter"] / "adapter_model.safetensors")
    for key, tensor in one["adapter"].items():
        moved = np.abs(tensor - start[key]).max()
        apart = np.abs(tensor - two["adapter"][key]).max()
        assert apart <= 0.05 * moved, key  # Adam makes steps of like size of rounding, too


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_process_s_completions_are_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(stage_spec("grpo", inputs, tmp_path / "s"), out)
    table = read_table(out / "completions.parquet")
    # 8 prompts, 4 completions each, in each of 2 epochs; each generation is of 4 prompts.
    assert len(table["completion"]) == 64
    assert table["step"] == sorted(table["step"])
    for first in range(0, 64, 16):
        assert len(set(table["example_id"][first : first + 16])) == 4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_reaches_every_process(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = stage_spec("sft", inputs, tmp_path / "k", epochs=200.0)
    process = start(given, tmp_path / "stopped")
    while not list((tmp_path / "k").glob("checkpoints/step-*1")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "lorapar: stopped after step" in said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_starts_ranks_too(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = stage_spec("sft", inputs, tmp_path / "one", checkpoint_s=1e9)
    ours = train(given, tmp_path / "ours")
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("-m", "lorapar_core"),
    ]
    other = stage_spec("sft", inputs, tmp_path / "two", checkpoint_s=1e9)
    finish(start(other, tmp_path / "theirs", words=words))
    assert steady_files(tmp_path / "theirs") == ours


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["prompt-tuning", "p-tuning", "prefix-tuning", "ia3"])
def test_two_processes_train_another_adapter_as_one_does(
    inputs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    section = {"kind": kind, "virtual_tokens": 4, "encoder_hidden_size": 8}
    made = {"peft": section, "seed": 0, "model": MODEL, "base_name": "owner/tiny@0123"}
    begun = run_stage("initialize", made, {"base": inputs["base"]}, tmp_path / "initial")
    outs = {}
    for processes in (1, 2):
        usual = stage_spec("sft", inputs, tmp_path / f"s{processes}")
        config = {**usual.config, "system": "full", "data": "all", "dropout": 0.0}
        needed = {"base": inputs["base"], "tokens": inputs["tokens"]}
        needed["adapter"] = begun / "adapter"
        runtime = {"processes": processes}
        given = spec("sft", config, needed, tmp_path / f"s{processes}", runtime=runtime)
        train(given, tmp_path / str(processes))
        outs[processes] = load_file(tmp_path / str(processes) / "adapter/adapter_model.safetensors")
    assert outs[1].keys() == outs[2].keys()
    for key, tensor in outs[1].items():
        np.testing.assert_allclose(tensor, outs[2][key], rtol=1e-3, atol=1e-5)
