"""The gradient of every LoRA element for every example of a batch, in one backward pass.

A LoRA layer computes y = base(x) + h Bᵀ·s with h = x Aᵀ, s its scale, and x (examples, tokens, in).
With g the loss's gradient at y, and the loss a sum Σ_n L_n over examples that don't see each other,
the gradients of L_n are, transposed as they lie here,

    B_n = s · h_nᵀ g_n                   (rank, out)
    A_n = s · (g_n B)ᵀ x_n               (rank, in)

`summing` puts an autograd function in the place of each layer's forward. Its backward pass adds
Σ_n G_n and Σ_n G_n² to sums; G_n itself lives for one layer at a time. Long sides stay last, since
matrix libraries take (rank, tokens) @ (tokens, out) several times faster than its transpose.
No weight asks for a gradient, and none is computed below the lowest adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from lorapar_core.errors import ModelError
from lorapar_core.loading import adapter_parameters

if TYPE_CHECKING:
    from peft import PeftModel

Sums = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Adapter key -> Σ_n G_n and Σ_n G_n², float32 of the weight's shape."""


class _Sum:
    """Σ G and Σ G² of one weight, each (rank, width) float32."""

    def __init__(self, like: torch.Tensor) -> None:
        self.first = torch.zeros_like(like, dtype=torch.float32)
        self.second = torch.zeros_like(self.first)

    def add(self, low: torch.Tensor, wide: torch.Tensor) -> None:
        """Count G_n = low_nᵀ wide_n, with `low` (n, tokens, rank) and `wide` (n, tokens, width)."""
        each = torch.bmm(low.mT, wide).float()
        self.first += each.sum(0)
        self.second += each.square_().sum(0)


class _Layer:
    """One LoRA layer: its weights with the long side last, and its sums."""

    def __init__(self, layer: Any) -> None:
        self.base = layer.base_layer
        self.scale: float = layer.scaling["default"]
        self.a = layer.lora_A["default"].weight.detach()  # (rank, in)
        self.b = (layer.lora_B["default"].weight.detach() * self.scale).T.contiguous()  # s·Bᵀ
        self.sum_a, self.sum_b = _Sum(self.a), _Sum(self.b)

    def moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Σ G and Σ G² of A, then of B, each of its weight's shape."""
        yield self.sum_a.first, self.sum_a.second
        yield (
            (self.sum_b.first * self.scale).T.contiguous(),
            (self.sum_b.second * self.scale**2).T.contiguous(),
        )


class _Branch(torch.autograd.Function):
    """base(x) + h Bᵀ·s, written into base(x)."""

    @staticmethod
    def forward(
        ctx: Any, y: torch.Tensor, x: torch.Tensor, _anchor: torch.Tensor, layer: _Layer
    ) -> torch.Tensor:
        h = linear(x.to(layer.a.dtype), layer.a)
        ctx.save_for_backward(x, h)
        ctx.layer = layer
        ctx.mark_dirty(y)
        flat, low = y.view(-1, y.shape[-1]), h.view(-1, h.shape[-1])
        if y.dtype == h.dtype:
            flat.addmm_(low, layer.b)
        else:  # a half-precision base: the sum is rounded once, as PEFT does
            flat.copy_(torch.addmm(flat.to(h.dtype), low, layer.b))
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, h = ctx.saved_tensors
        layer: _Layer = ctx.layer
        wide = g.to(h.dtype)
        low = linear(wide, layer.b)  # (n, tokens, rank): the gradient at h
        layer.sum_b.add(h, wide)
        layer.sum_a.add(low, x.to(h.dtype))
        below = (low @ layer.a).to(x.dtype) if ctx.needs_input_grad[1] else None
        return g, below, None, None


def _forward(layer: _Layer, anchor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if x.dim() != 3:
        raise ModelError(
            f"a LoRA layer is given an input of shape {tuple(x.shape)}; expected (examples, "
            "tokens, width): where a module sees the tokens of several examples as one list, as "
            "experts do, they can't be told apart. Leave it out of lora.modules"
        )
    branch: torch.Tensor = _Branch.apply(layer.base(x), x, anchor, layer)
    return branch


@contextmanager
def summing(model: PeftModel) -> Iterator[Sums]:
    """While open, every backward pass counts; on leaving, the sums stand in what it gave.

    Raises:
        ModelError: an adapter or a mode in which the sums would be wrong.
    """
    refuse_unsupported(model)
    modules = _lora_layers(model)
    layers = [_Layer(module) for module in modules]
    anchor = torch.zeros((), requires_grad=True)  # or the lowest layers' outputs would ask for none
    before = [vars(module).get("forward") for module in modules]
    sums: Sums = {}
    try:
        for module, layer in zip(modules, layers, strict=True):
            module.forward = partial(_forward, layer, anchor)
        yield sums
        sums |= _by_key(model, modules, layers)
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


def _by_key(model: PeftModel, modules: Sequence[Any], layers: Sequence[_Layer]) -> Sums:
    keys = {id(parameter): key for key, parameter in adapter_parameters(model).items()}
    sums: Sums = {}
    for module, layer in zip(modules, layers, strict=True):
        weights = module.lora_A["default"].weight, module.lora_B["default"].weight
        for weight, moments in zip(weights, layer.moments(), strict=True):
            sums[keys[id(weight)]] = moments
    return dict(sorted(sums.items()))


def _lora_layers(model: PeftModel) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def refuse_unsupported(model: PeftModel) -> None:
    """Raise where the sums would be wrong.

    Raises:
        ModelError: several adapters, a LoRA variant (DoRA and others), a merged or disabled
            adapter, one on an embedding, a convolution or a bare parameter, or activation
            checkpointing.
    """
    if list(model.peft_config) != ["default"]:
        raise ModelError(
            f"adapters {list(model.peft_config)} are attached; scoring needs exactly one, 'default'"
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ModelError("activation checkpointing is on; switch it off for scoring")
    for name, module in model.named_modules():
        problem = _problem(module)
        if problem:
            raise ModelError(
                f"{name} has {problem}; per-example gradients would be wrong. Score a plain LoRA "
                "on linear modules, unmerged, in evaluation mode"
            )


def _problem(module: Any) -> str | None:
    from peft.tuners.lora import Embedding, Linear, LoraLayer

    if not isinstance(module, LoraLayer):
        return None
    if isinstance(module, Embedding):
        return "an embedding adapter"
    if not isinstance(module, Linear):
        return f"an adapter of another kind ({type(module).__name__})"
    found = {
        "a LoRA variant such as DoRA": bool(module.lora_variant),
        "a merged adapter": module.merged,
        "a disabled adapter": module.disable_adapters,
        "a bias of its own (lora_bias)": module.lora_B["default"].bias is not None,
        "dropout in training mode": module.training
        and not isinstance(module.lora_dropout["default"], torch.nn.Identity),
    }
    return next((problem for problem, true in found.items() if true), None)
