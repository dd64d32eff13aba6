"""A LoRA layer's forward and backward pass without copies of its output.

PEFT computes y = W x + b + s · B (A x) in steps that each write a tensor as large as y, and
autograd as many again. Here the branch is added where W x stands, and its part of the gradient at x
where that of W stands:

    forward    y = x Wᵀ + b, then y += s · h Bᵀ with h = x' Aᵀ          x' is x, dropout applied
    backward   l = s · g B,  ∂x = g W, ∂x' = l A (added to ∂x where x' is x),
               ∂A = lᵀ x',  ∂B = s · (hᵀ g)ᵀ                            g is the gradient at y

Long sides stay last, as in `per_example`. Results are PEFT's but for rounding. What isn't a plain
linear layer in float32 with one plain adapter (half precision, 4 bits, autocast, DoRA and other
variants, merged, disabled or several adapters) goes PEFT's own way, call by call.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.functional import linear


class FusedBranches:
    """Mixin for a trl trainer: `install` on its model."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        trainer: Any = self
        install(trainer.accelerator.unwrap_model(trainer.model))


def install(model: Any) -> None:
    """Have every LoRA layer of `model` compute as described, where it can."""
    from peft.tuners.lora import Linear

    for module in model.modules():
        if type(module) is Linear:
            module.forward = functools.partial(_forward, module, module.forward)


def _forward(module: Any, plain: Any, x: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
    name = None if args or more else _only_adapter(module, x)
    if name is None:
        result: torch.Tensor = plain(x, *args, **more)
        return result
    base = module.base_layer
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    dropped = module.lora_dropout[name](x)
    fused: torch.Tensor = _Branch.apply(
        x, dropped, base.weight, base.bias, a, b, module.scaling[name]
    )
    return fused


def _only_adapter(module: Any, x: torch.Tensor) -> str | None:
    """The adapter's name; None where `_Branch` isn't what PEFT would compute."""
    active, base = module.active_adapters, module.base_layer
    if len(active) != 1 or active[0] not in module.lora_A:
        return None
    name: str = active[0]
    weights = [base.weight, module.lora_A[name].weight, module.lora_B[name].weight]
    plain = (
        type(base) is torch.nn.Linear
        and not base.weight.requires_grad
        and not (module.disable_adapters or module.merged or name in module.lora_variant)
        and module.lora_B[name].bias is None
        and all(tensor.dtype == torch.float32 for tensor in (x, *weights))
        and not torch.is_autocast_enabled(x.device.type)
    )
    return name if plain else None


class _Branch(torch.autograd.Function):
    """Takes x and x' (…, in), W (out, in), b (out,) or None, A (rank, in), B (out, rank), s."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        y, h = linear(x, weight, bias), linear(dropped, a)
        _flat(y).addmm_(_flat(h), b.T, alpha=scale)
        ctx.save_for_backward(dropped, h, weight, a, b)
        ctx.scale, ctx.same = scale, dropped is x
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dropped, h, weight, a, b = ctx.saved_tensors
        of_x, of_dropped, _, _, of_a, of_b, _ = ctx.needs_input_grad
        wide = _flat(g)
        low = (wide @ b).mul_(ctx.scale)
        below = g @ weight if of_x else None
        branch = None
        if ctx.same and below is not None:
            _flat(below).addmm_(low, a)
        elif of_dropped:
            branch = (low @ a).view(dropped.shape)
        slope_a = low.T @ _flat(dropped) if of_a else None
        slope_b = (_flat(h).T @ wide).mul_(ctx.scale).T.contiguous() if of_b else None
        return below, branch, None, None, slope_a, slope_b, None


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """(positions, width)."""
    return tensor.reshape(-1, tensor.shape[-1])
