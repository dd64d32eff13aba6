"""The weights an engine is given: the model's own function, and the model left as it is."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_inputs import tiny_inputs

from lorapar_core.errors import ModelError
from lorapar_core.loading import adapter_parameters, attach_adapter, load_base
from lorapar_core.merged_weights import merged_weights


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("merged"), tiny_model)


def model_with(inputs: dict[str, Path], *, ref: bool = False, **base: Any) -> Any:
    model = attach_adapter(load_base(inputs["base"], **base), inputs["adapter"]).eval()
    for parameter in adapter_parameters(model).values():
        parameter.data *= 3
    if ref:  # as trl makes it for a KL term
        model.add_adapter("ref", model.peft_config["default"])
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(6, 30)[None]).logits.float()
    return found


def bits(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("ref", [False, True])
def test_a_plain_model_with_them_computes_the_same(inputs: dict[str, Path], ref: bool) -> None:
    model = model_with(inputs, ref=ref, dtype="float32")
    before = bits(model)
    plain = load_base(inputs["base"], dtype="float32")
    apart = (logits(plain) - logits(model)).abs().max()
    weights = dict(merged_weights(model))
    plain.load_state_dict(weights, strict=True)
    assert (logits(plain) - logits(model)).abs().max() < 1e-5 < 0.01 * apart
    assert all(torch.equal(before[name], p) for name, p in bits(model).items())


def test_peft_s_own_merging_and_back_would_move_a_bfloat16_base(inputs: dict[str, Path]) -> None:
    """Why trl's way isn't ours."""
    model = model_with(inputs, dtype="bfloat16")
    before = bits(model)
    list(merged_weights(model))
    assert all(torch.equal(before[name], p) for name, p in bits(model).items())
    theirs = copy.deepcopy(model)
    theirs.merge_adapter()
    theirs.unmerge_adapter()
    assert any(not torch.equal(before[name], p) for name, p in bits(theirs).items())


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 4bit")
def test_4_bits_are_dequantized(inputs: dict[str, Path]) -> None:
    model = model_with(inputs, dtype="float32", quantization="nf4").train()  # there is no dropout
    before = bits(model)
    plain = load_base(inputs["base"], dtype="float32")
    full = (logits(plain) - logits(model)).abs().max()
    plain.load_state_dict(dict(merged_weights(model)), strict=True)
    assert (logits(plain) - logits(model)).abs().max() < 1e-4 < 0.1 * full
    assert all(torch.equal(before[name], p) for name, p in bits(model).items())


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 4bit")
def test_weights_that_a_processor_has_repacked_are_refused(inputs: dict[str, Path]) -> None:
    """bitsandbytes does so in evaluation, on a CPU with the instructions for it."""
    model = model_with(inputs, dtype="float32", quantization="nf4")
    weight = model.get_submodule("base_model.model.model.layers.0.self_attn.k_proj").weight
    weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match="repacked for this processor"):
        list(merged_weights(model))
