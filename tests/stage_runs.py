"""Training stages in several processes, each run by `python -m lorapar_core`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_inputs import spec, steady_files
from tiny_training import NEEDED, grpo_config, sft_config

CPU_BUILD = pytest.mark.skipif(
    torch.accelerator.current_accelerator() is not None,
    reason="transformers shares a base out on GPUs where torch is built for them",
)
ROOT = Path(__file__).parents[1]


def stage_spec(
    stage: str, inputs: Mapping[str, Path], scratch: Path, *, epochs: float = 2.0, **runtime: Any
) -> Any:
    needed = {role: inputs[role] for role in NEEDED}
    if stage == "sft":
        config = {**sft_config(batch_size=1, accumulation=4), "epochs": epochs}
    else:
        config = grpo_config()
        needed["examples"] = inputs["examples"]
    runtime = {"processes": 2, "checkpoint_s": 0, **runtime}
    return spec(stage, config, needed, scratch, runtime=runtime)


def start(given: Any, out: Path, *, words: list[str] | None = None) -> subprocess.Popen[str]:
    given.scratch.mkdir(exist_ok=True)
    file = given.scratch / "spec.json"
    file.write_text(given.to_json())
    command = words or [sys.executable, "-m", "lorapar_core"]
    return subprocess.Popen(
        [*command, given.stage, str(file), str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    try:
        _, said = process.communicate(timeout=250)
    finally:
        process.kill()  # where it took too long
        process.communicate()
    assert process.returncode == 0, said


def train(given: Any, out: Path) -> dict[str, bytes]:
    finish(start(given, out))
    return steady_files(out)
