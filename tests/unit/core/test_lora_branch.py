"""The fused LoRA branch gives PEFT's outputs and gradients, and leaves to PEFT what it can't."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lorapar_core import lora_branch
from lorapar_core.lora_branch import install

TARGETS = ["q_proj", "v_proj", "down_proj"]


def adapted(path: Path, *, dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False, **lora)
    return get_peft_model(base, config)


def ids() -> torch.Tensor:
    return torch.randint(6, 400, (3, 17), generator=torch.Generator().manual_seed(3))


def step(model: Any, *, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradient of each weight that asks for one."""
    torch.manual_seed(seed)
    model.zero_grad()
    out = model(input_ids=ids(), labels=ids())
    out.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return out.logits.detach(), gradients


def assert_alike(path: Path, change: Callable[[Any], object] = id, **lora: Any) -> None:
    plain = adapted(path, **lora)
    change(plain)
    fused = copy.deepcopy(plain)
    install(fused)
    (logits, slopes), (ours, own) = step(plain), step(fused)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
    assert own.keys() == slopes.keys()
    assert len(own) > 0
    for name, slope in slopes.items():
        torch.testing.assert_close(own[name], slope, rtol=1e-3, atol=1e-6, msg=name)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of a layer was fused."""
    asked = lora_branch._only_adapter
    answers: list[bool] = []

    def noted(module: Any, x: torch.Tensor) -> str | None:
        found = asked(module, x)
        answers.append(found is not None)
        return found

    monkeypatch.setattr(lora_branch, "_only_adapter", noted)
    return answers


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_pefts(
    tiny_model: Path, fused: list[bool], dropout: float
) -> None:
    """With dropout too: it draws the same numbers."""
    assert_alike(tiny_model, lambda model: model.train(), lora_dropout=dropout)
    assert fused == [True] * 6


def test_a_weight_that_asks_for_no_gradient_gets_none(tiny_model: Path, fused: list[bool]) -> None:
    def freeze(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if "lora_A" in name and "layers.0" in name:
                parameter.requires_grad_(False)
            if "lora_B" in name and "layers.1" in name:
                parameter.requires_grad_(False)

    assert_alike(tiny_model, freeze)
    assert all(fused)


def test_biases_and_activation_checkpointing(tiny_model: Path, fused: list[bool]) -> None:
    def bias(model: Any) -> None:
        for module in model.modules():
            if hasattr(module, "base_layer"):
                width = module.base_layer.weight.shape[0]
                made = torch.nn.Parameter(torch.linspace(-0.1, 0.1, width), requires_grad=False)
                module.base_layer.bias = made
        model.train()
        model.activation_checkpointing_enable()
        model.enable_input_require_grads()

    assert_alike(tiny_model, bias)
    assert all(fused)
    assert len(fused) == 12  # once more in the backward pass


@pytest.mark.parametrize("kind", ["dora", "merged", "disabled", "two", "bfloat16"])
def test_what_it_does_not_know_goes_pefts_way(
    tiny_model: Path, fused: list[bool], kind: str
) -> None:
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    plain = adapted(tiny_model, dtype=dtype, use_dora=kind == "dora")
    if kind == "merged":
        plain.merge_adapter()
    elif kind == "two":
        plain.add_adapter("other", plain.peft_config["default"])
        plain.base_model.set_adapter(["default", "other"])
    elif kind == "disabled":
        plain.disable_adapter_layers()
    ours = copy.deepcopy(plain)
    install(ours)
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids()).logits, ours(input_ids=ids()).logits)
    assert fused == [False] * 6


def test_the_active_adapter_is_the_one_computed(tiny_model: Path, fused: list[bool]) -> None:
    """As trl's switch to its reference and back."""
    plain = adapted(tiny_model)
    plain.add_adapter("ref", plain.peft_config["default"])
    ours = copy.deepcopy(plain)
    install(ours)
    found = {}
    for model in (plain, ours):
        with torch.no_grad():
            for name in ("ref", "default"):
                model.set_adapter(name)
                found.setdefault(name, []).append(model(input_ids=ids()).logits)
    for name in ("ref", "default"):
        torch.testing.assert_close(*found[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["ref"][0], found["default"][0])
    assert all(fused)
