"""A base in 4 bits: refused without its package; scored, trained and tested with it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_inputs import MODEL, run_stage, steady_files, tiny_inputs

from lorapar_core.config import EvaluationConfig, GrpoConfig, SftConfig
from lorapar_core.errors import ConfigError
from lorapar_core.loading import attach_adapter, load_base
from lorapar_core.partition import active_mask
from lorapar_core.quantization import require_quantization

NF4 = {**MODEL, "quantization": "nf4"}
SECTIONS: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 2, "accumulation": 2},
    "grpo": {
        "group_size": 4,
        "batch_size": 4,
        "accumulation": 2,
        "max_completion_length": 8,
        "kl_coefficient": 0.1,  # trl then copies the adapter
        "rewards": {"tag_credit": 1.0},
    },
}
installed = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 4bit")


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("quantization"), tiny_model)


def test_without_bitsandbytes_it_is_refused(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    require_quantization("none")
    with pytest.raises(ConfigError, match=r"nf4 needs bitsandbytes.* pip install bitsandbytes"):
        load_base(tiny_model, dtype="float32", quantization="nf4")


@installed
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_weights_are_in_4_bits_and_the_adapter_in_32(
    inputs: dict[str, Path], dtype: str
) -> None:
    base = load_base(inputs["base"], dtype=dtype, quantization="nf4")
    state = base.model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.nested) == ("nf4", True)
    assert state.dtype == getattr(torch, dtype)
    left = {base.lm_head.weight.dtype, base.model.norm.weight.dtype}
    assert left == {getattr(torch, dtype)}
    model = attach_adapter(base, inputs["adapter"])
    lora = [p for name, p in model.named_parameters() if "lora_" in name]
    assert {p.dtype for p in lora} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())


def train(out: Path, inputs: dict[str, Path], stage: str, model: dict[str, Any]) -> Path:
    kind = {"sft": SftConfig, "grpo": GrpoConfig}[stage]
    unread = {"prompt", "system_prompt", "max_prompt_length"}
    section = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_steps": 2, **SECTIONS[stage]}
    config = {
        stage: kind.model_validate(section).model_dump(exclude=unread),
        "model": model,
        "system": 1,
        "data": "system",
        "epochs": 1.0,
        "dropout": 0.1,
        "answer_format": "hash",
    }
    roles = ("base", "adapter", "masks", "labels", "tokens", "examples")
    return run_stage(stage, config, {role: inputs[role] for role in roles}, out)


@installed
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_training_moves_active_elements_only_and_rounds_none(
    inputs: dict[str, Path], tmp_path: Path, stage: str, dtype: str
) -> None:
    """trl would round the whole adapter to bfloat16."""
    out = train(tmp_path / "out", inputs, stage, {**NF4, "dtype": dtype})
    start, end = (
        load_file(d / "adapter_model.safetensors") for d in (inputs["adapter"], out / "adapter")
    )
    for key, bits in load_file(inputs["masks"]).items():
        active = active_mask(bits, 1)
        moved = start[key].view(np.uint32) != end[key].view(np.uint32)
        assert not moved[~active].any(), key
        assert moved[active].mean() > 0.9, key
        assert (end[key].view(np.uint32) & 0xFFFF != 0).mean() > 0.9, "as fine as float32"
    again = train(tmp_path / "again", inputs, stage, {**NF4, "dtype": dtype})
    assert steady_files(again) == steady_files(out)
    full = train(tmp_path / "full", inputs, stage, {**MODEL, "dtype": dtype})
    assert steady_files(full) != steady_files(out)


@installed
def test_evaluation_answers_with_the_4_bit_base(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorapar_core import evaluate

    seen = []
    generate = evaluate.generate

    def spy(model: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(model.is_loaded_in_4bit)
        return generate(model, *arguments, **named)

    monkeypatch.setattr(evaluate, "generate", spy)
    config = {
        "evaluation": EvaluationConfig(max_new_tokens=4).model_dump(exclude={"base"}),
        "model": NF4,
        "format": "sft",
        "answer_format": "hash",
    }
    roles = {"base": "base", "adapter": "adapter", "tokens": "test_tokens", "examples": "test"}
    given = {role: inputs[name] for role, name in roles.items()}
    out = run_stage("evaluate", config, given, tmp_path / "out")
    assert (out / "metrics.json").exists()
    assert seen == [True]
