"""Trackers themselves, each where it is installed: a run a stage, with the figures that we keep."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_inputs import run_stage, tiny_inputs
from tiny_training import NEEDED, grpo_config, sft_config

Losses = dict[str, list[float]]
"""Run's name -> loss of each step."""


def of_tensorboard(home: Path) -> Losses:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in (home / "tensorboard").iterdir():
        events = EventAccumulator(str(folder))
        events.Reload()
        found[folder.name] = [event.value for event in events.Scalars("train/loss")]
    return found


def of_trackio(home: Path) -> Losses:
    with sqlite3.connect(home / "trackio" / "lorapar.db") as database:
        rows = database.execute("select run_name, metrics from metrics order by step").fetchall()
    found: Losses = {}
    for name, text in rows:
        found.setdefault(name, [])
        metrics = json.loads(text)
        if "train/loss" in metrics:
            found[name].append(metrics["train/loss"])
    return found


def of_mlflow(home: Path) -> Losses:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("lorapar")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return {
        run.info.run_name: [m.value for m in client.get_metric_history(run.info.run_id, "loss")]
        for run in runs
    }


def of_wandb(home: Path) -> Losses:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Losses = {}
    for file in (home / "wandb").rglob("run-*.wandb"):
        name, losses = "", list[float]()
        for data in records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            if "train/loss" in items:
                losses.append(float(items["train/loss"]))
        found[name] = losses
    return found


def records(log: bytes) -> Iterator[bytes]:
    """Those of LevelDB's log format: blocks of 32 KiB; whole records (1), or parts (2, 3 … 4)."""
    at, parts = 7, b""  # after wandb's own header
    while at + 7 <= len(log):
        if 0 < -at % 32768 < 7:  # no header fits into what is left of the block
            at += -at % 32768
            continue
        length, kind = struct.unpack("<HB", log[at + 4 : at + 7])
        parts += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


READ: dict[str, Callable[[Path], Losses]] = {
    "tensorboard": of_tensorboard,
    "trackio": of_trackio,
    "mlflow": of_mlflow,
    "wandb": of_wandb,
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("tracker", READ)
def test_each_stage_is_a_run_with_its_figures(
    tracker: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages in one process, as a resident child trains them."""
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} isn't installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    runtime = {"trackers": [tracker], "tensorboard_dir": str(tmp_path / "tensorboard")}
    inputs = tiny_inputs(tmp_path, tiny_model)
    needed = {role: inputs[role] for role in NEEDED}
    for stage, config, more in (
        ("sft", sft_config(), {}),
        ("grpo", grpo_config(), {"examples": inputs["examples"]}),
    ):
        run_stage(stage, config, {**needed, **more}, tmp_path / stage, runtime=runtime)

    found = READ[tracker](tmp_path)

    assert sorted(name.partition("-")[0] for name in found) == ["grpo", "sft"]
    for name, losses in found.items():
        lines = (tmp_path / name.partition("-")[0] / "metrics.jsonl").read_text().splitlines()
        assert losses == pytest.approx([json.loads(line)["loss"] for line in lines], abs=1e-6)
