"""The gradient of every LoRA element for every example of a batch, in one backward pass.

A LoRA layer computes y = base(x) + h Bᵀ·s with h = x Aᵀ, s its scale, and x (examples, tokens, in).
With g the loss's gradient at y, and the loss a sum Σ_n L_n over examples that don't see each other,
the gradients of L_n are

    B_n = s · (h_nᵀ g_n)ᵀ                (out, rank), computed and summed as (rank, out)
    A_n = s · (g_n B)ᵀ x_n               (rank, in)

`summing` puts an autograd function in the place of each layer's forward. Its backward pass adds
Σ_n G_n and Σ_n G_n² to sums; G_n itself lives for one layer at a time. Long sides stay last, since
matrix libraries take (rank, tokens) @ (tokens, out) several times faster than its transpose.
No weight asks for a gradient, and none is computed below the lowest adapter.

A layer must be given each batch once a forward pass, as (examples, tokens, width); anything else is
refused, but for a batch of as many examples as tokens that a model turns over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from lorapar_core.errors import ModelError
from lorapar_core.loading import adapter_parameters

if TYPE_CHECKING:
    from peft import PeftModel


class Sums:
    """Adapter key -> Σ_n G_n (`first`) and Σ_n G_n² (`second`), float32 of the weight's shape."""

    def __init__(self) -> None:
        self.first: dict[str, torch.Tensor] = {}
        self.second: dict[str, torch.Tensor] = {}
        self.shape: tuple[int, ...] = ()
        self.batches = 0

    def expect(self, ids: torch.Tensor) -> None:
        """A forward pass over `ids` (examples, tokens) follows."""
        self.shape = tuple(ids.shape)
        self.batches += 1


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

    def __init__(self, name: str, layer: Any, sums: Sums) -> None:
        self._name, self._sums, self._seen = name, sums, 0
        self.base = layer.base_layer
        self.scale: float = layer.scaling["default"]
        self.a = layer.lora_A["default"].weight.detach()  # (rank, in)
        self.b = (layer.lora_B["default"].weight.detach() * self.scale).T.contiguous()  # s·Bᵀ
        self.sum_a, self.sum_b = _Sum(self.a), _Sum(self.b)

    def enter(self, x: torch.Tensor) -> None:
        """Refuse what the sums would be wrong for.

        Raises:
            ModelError: examples can't be told apart, or a second call in a forward pass.
        """
        if tuple(x.shape[:-1]) != self._sums.shape:
            raise ModelError(
                f"{self._name} is given an input of shape {tuple(x.shape)}; expected "
                f"{self._sums.shape} examples and tokens, then width. A module that sees tokens in "
                "another order, as experts do, can't be scored: leave it out of lora.modules"
            )
        if self._seen == self._sums.batches:
            raise ModelError(
                f"{self._name} is used twice in a forward pass; a shared module can't be scored: "
                "leave it out of lora.modules"
            )
        self._seen = self._sums.batches

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
        else:  # a half-precision base: the sum is rounded once, as PEFT does but for 4 bits
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
    layer.enter(x)
    branch: torch.Tensor = _Branch.apply(layer.base(x), x, anchor, layer)
    return branch


@contextmanager
def summing(model: PeftModel) -> Iterator[Sums]:
    """While open, every backward pass counts; on leaving, the sums stand in what it gave.

    Raises:
        ModelError: an adapter or a mode in which the sums would be wrong.
    """
    _refuse_unsupported(model)
    sums = Sums()
    modules = _lora_layers(model)
    layers = [_Layer(name, module, sums) for name, module in modules.items()]
    anchor = torch.zeros((), requires_grad=True)  # or the lowest layers' outputs would ask for none
    before = [vars(module).get("forward") for module in modules.values()]
    try:
        for module, layer in zip(modules.values(), layers, strict=True):
            module.forward = partial(_forward, layer, anchor)
        yield sums
        _fill(sums, model, modules.values(), layers)
    finally:
        for module, forward in zip(modules.values(), before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward


def _fill(sums: Sums, model: PeftModel, modules: Iterable[Any], layers: Iterable[_Layer]) -> None:
    keys = {id(parameter): key for key, parameter in adapter_parameters(model).items()}
    found = {}
    for module, layer in zip(modules, layers, strict=True):
        weights = module.lora_A["default"].weight, module.lora_B["default"].weight
        for weight, moments in zip(weights, layer.moments(), strict=True):
            found[keys[id(weight)]] = moments
    for key in sorted(found):
        sums.first[key], sums.second[key] = found[key]


def _lora_layers(model: PeftModel) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def _refuse_unsupported(model: PeftModel) -> None:
    """Raise where the sums would be wrong.

    Raises:
        ModelError: several adapters, a LoRA variant (DoRA and others), dropout, a merged, disabled
            or inactive adapter, one with a bias of its own, one on an embedding, the output head, a
            convolution or a bare parameter, other weights that train, or activation checkpointing.
    """
    if list(model.peft_config) != ["default"]:
        raise ModelError(
            f"adapters {list(model.peft_config)} are attached; scoring needs exactly one, 'default'"
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ModelError("activation checkpointing is on; switch it off for scoring")
    head = model.get_output_embeddings()
    for name, module in _lora_layers(model).items():
        problem = "an adapter on the output head" if module is head else _problem(module)
        if problem:
            raise ModelError(
                f"{name} has {problem}; per-example gradients would be wrong. Score a plain LoRA "
                "on linear modules, unmerged, in evaluation mode"
            )
    adapter = {id(parameter) for parameter in adapter_parameters(model).values()}
    others = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in adapter]
    if others:
        raise ModelError(
            f"{len(others)} weights beside the adapter ask for gradients, {others[0]} first; "
            "scoring takes LoRA alone, without modules_to_save or biases"
        )


def _linear_kinds() -> tuple[Any, ...]:
    """Layers that compute base(x) + h Bᵀ·s, whatever base(x) holds its weights in."""
    from peft.import_utils import is_bnb_4bit_available
    from peft.tuners.lora import Linear

    if not is_bnb_4bit_available():
        return (Linear,)
    from peft.tuners.lora.bnb import Linear4bit

    return Linear, Linear4bit


def _problem(module: Any) -> str | None:
    from peft.tuners.lora import Embedding

    if isinstance(module, Embedding):
        return "an embedding adapter"
    if not isinstance(module, _linear_kinds()):
        return f"an adapter of another kind ({type(module).__name__})"
    found = {
        "a LoRA variant such as DoRA": bool(module.lora_variant),
        "a merged adapter": module.merged,
        "a disabled adapter": module.disable_adapters,
        "an inactive adapter": list(module.active_adapters) != ["default"],
        "a bias of its own (lora_bias)": module.lora_B["default"].bias is not None,
        "dropout in training mode": module.training
        and not isinstance(module.lora_dropout["default"], torch.nn.Identity),
    }
    return next((problem for problem, true in found.items() if true), None)
