"""What a scoring, training or evaluation stage reads, made for the tiny model in a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TARGETS = ["down_proj", "gate_proj", "q_proj", "v_proj"]
MODEL = {"dtype": "float32", "attention": "sdpa"}
RUNTIME = {"device": "cpu", "threads": 1}


def spec(
    stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path], scratch: Path, **more: Any
) -> Any:
    """A `Spec` on one CPU thread."""
    from lorapar_core.config import RuntimeConfig
    from lorapar_core.spec import Spec

    runtime = RuntimeConfig.model_validate({**RUNTIME, **more.pop("runtime", {})})
    return Spec(
        stage=stage,
        name=more.pop("name", stage),
        config=config,
        inputs=inputs,
        scratch=scratch,
        runtime=runtime,
        **more,
    )


def run_stage(
    stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, **more: Any
) -> Path:
    """Run a stage here, in an empty `out`; returns `out`."""
    from lorapar_core.stages import STAGES

    out.mkdir(parents=True)
    scratch = out.parent / f"{out.name}.scratch"
    scratch.mkdir()
    STAGES[stage].run(spec(stage, config, inputs, scratch, **more), out)
    return out


def files(directory: Path) -> dict[str, bytes]:
    """Every file below `directory`: relative name -> content."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def steady_files(directory: Path) -> dict[str, bytes]:
    """`files`, but for that which tells speeds."""
    return {name: content for name, content in files(directory).items() if name != "metrics.jsonl"}


def tiny_inputs(directory: Path, model: Path, *, examples: int = 16) -> dict[str, Path]:
    """Base, examples, tokens, labels (systems 1 and 2 in turn), adapter, masks and a test set."""
    from lorapar_core.config import DataConfig, GrpoConfig, SftConfig
    from lorapar_core.data.sources import Source
    from lorapar_core.parquet import read_table, write_table
    from lorapar_core.tally import LABELS

    sources = {s: Source("arithmetic", "arithmetic", split=s).to_json() for s in ("train", "test")}
    data = DataConfig(source="arithmetic", examples=examples, test_examples=6)
    prepared = run_stage(
        "prepare",
        {
            "data": data.model_dump(mode="json"),
            **sources,
            "model": {"chat_template": ""},
            "sft": SftConfig(max_length=256).model_dump(include={"prompt", "max_length"}),
            "grpo": GrpoConfig(prompt="as_sft", max_prompt_length=256).model_dump(
                include={"prompt", "system_prompt", "max_prompt_length"}
            ),
        },
        {"tokenizer": model},
        directory / "prepared",
    )
    ids = sorted(read_table(prepared / "examples.parquet", ["id"])["id"])
    one = [1] * len(ids)
    labels = {
        "example_id": ids,
        "system": [1 + k % 2 for k in range(len(ids))],
        "votes_for": one,
        "votes_against": [0] * len(ids),
        "abstained": [0] * len(ids),
        "agreement": [1.0] * len(ids),
    }
    write_table(directory / "labels.parquet", labels, LABELS)
    adapter = tiny_adapter(directory / "initial", model)
    return {
        "base": model,
        "examples": prepared / "examples.parquet",
        "tokens": prepared / "tokens.parquet",
        "test": prepared / "test.parquet",
        "test_tokens": prepared / "test_tokens.parquet",
        "labels": directory / "labels.parquet",
        "adapter": adapter,
        "masks": tiny_masks(directory / "partitioned", adapter),
    }


def tiny_adapter(out: Path, model: Path, **lora: Any) -> Path:
    """The adapter directory that stage `initialize` makes."""
    from lorapar_core.config import LoraConfig

    fields = {"r": 2, "lora_alpha": 4, "modules": TARGETS, "init_std": 0.05, **lora}
    section = LoraConfig.model_validate(fields).model_dump(exclude={"dropout"})
    config = {"lora": section, "model": MODEL, "base_name": "owner/tiny@0123"}
    return run_stage("initialize", config, {"base": model}, out) / "adapter"


def tiny_masks(out: Path, adapter: Path) -> Path:
    """The masks that stage `partition` makes of two random importances."""
    from safetensors.numpy import load_file, save_file

    inputs = {}
    for system in (1, 2):
        generator = np.random.default_rng(system)
        scores = {
            key: generator.exponential(size=tensor.shape).astype(np.float32)
            for key, tensor in sorted(load_file(adapter / "adapter_model.safetensors").items())
        }
        inputs[f"importance/{system}"] = out.parent / f"importance{system}.safetensors"
        save_file(scores, inputs[f"importance/{system}"])
    config = {"partition": {"theta": 0.6, "alpha": 0.5, "beta": 0.5}}
    return run_stage("partition", config, inputs, out) / "masks.safetensors"
