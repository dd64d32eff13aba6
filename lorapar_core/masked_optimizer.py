"""AdamW over active elements only.

The outer `param_groups` hold the real LoRA parameters, so that schedulers, accelerate, gradient
clipping and loss scaling see them. The state belongs to one flat vector of the active elements:
`step` gathers weights and gradients into it, runs AdamW on it, and scatters the weights back. An
inactive element is never written: it keeps its bits under weight decay, clipping, accumulation and
resume. A gradient hook zeroes inactive gradients before they are accumulated, so the clip norm is
the norm of the active ones; a parameter with no active element asks for no gradient. (It has the
hook too: PEFT asks for every gradient again when trl comes back from its reference adapter.)

(The authors' script masks gradients and leaves AdamW alone: its decay still shrinks "frozen"
elements, and both moments are kept for all of them.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lorapar_core.errors import TrainingError


class MaskedAdamW(torch.optim.Optimizer):
    """AdamW on the elements that `masks` marks.

    Args:
        parameters: key -> parameter that asks for a gradient.
        masks: the same keys -> bool tensor of the parameter's shape, with at least one True.
        lr, betas, eps, weight_decay: as in `torch.optim.AdamW`.

    Raises:
        TrainingError: keys or shapes differ, or a mask is empty.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        masks: Mapping[str, torch.Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        _check(parameters, masks)
        keys = sorted(parameters)
        self._parameters = [parameters[key] for key in keys]
        self._indices = [
            masks[key].reshape(-1).nonzero().squeeze(1).to(parameters[key].device) for key in keys
        ]
        self.mask_digest = mask_digest(masks)
        settings: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(self._parameters, settings)
        self._flat = torch.nn.Parameter(self._gather([p.data for p in self._parameters]))
        self._inner = torch.optim.AdamW([self._flat], fused=True, **settings)

    @property
    def active_count(self) -> int:
        """How many elements train."""
        return self._flat.numel()

    def _gather(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """The active elements of `tensors`, (active,) float32."""
        parts = [
            tensor.reshape(-1).index_select(0, index)
            for tensor, index in zip(tensors, self._indices, strict=True)
        ]
        return torch.cat(parts).float()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise TrainingError("MaskedAdamW takes no closure")
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        self._flat.copy_(self._gather([p.data for p in self._parameters]))
        self._flat.grad = self._gather(grads)
        inner = self._inner.param_groups[0]
        inner.update({k: v for k, v in self.param_groups[0].items() if k != "params"})
        self._inner.step()
        sizes = [len(index) for index in self._indices]
        for parameter, index, values in zip(
            self._parameters, self._indices, self._flat.split(sizes), strict=True
        ):
            parameter.view(-1).index_copy_(0, index, values.to(parameter.dtype))
        self._flat.grad = None

    def state_dict(self) -> dict[str, Any]:
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {
            "inner": self._inner.state_dict(),
            "param_groups": groups,
            "mask_digest": self.mask_digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state.

        Raises:
            TrainingError: it was saved for another mask.
        """
        saved = state_dict.get("mask_digest")
        if saved != self.mask_digest:
            raise TrainingError(
                f"optimizer state was saved for mask {str(saved)[:12]}, this stage's mask is "
                f"{self.mask_digest[:12]}; start the stage anew"
            )
        self._inner.load_state_dict(state_dict["inner"])
        for group, values in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(values)


def restrict(
    parameters: Mapping[str, torch.nn.Parameter], masks: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.Tensor]]:
    """Let only active elements get gradients; returns the parameters that have some, and masks.

    Every parameter's `requires_grad` is set, and each gets a gradient hook.
    """
    if set(parameters) != set(masks):
        odd = sorted(set(parameters) ^ set(masks))
        raise TrainingError(f"masks don't fit the adapter: {len(odd)} keys differ, {odd[0]} first")
    trained = {key: parameter for key, parameter in parameters.items() if masks[key].any()}
    for key, parameter in parameters.items():
        parameter.requires_grad_(True)
        parameter.register_hook(_masking(masks[key].to(parameter.device)))
        parameter.requires_grad_(key in trained)
    if not trained:
        raise TrainingError("the mask has no active element; raise theta, alpha or beta")
    return trained, {key: masks[key] for key in trained}


def _masking(mask: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: gradient * mask


def mask_digest(masks: Mapping[str, torch.Tensor]) -> str:
    """sha256 over keys and masks, in key order."""
    digest = hashlib.sha256()
    for key in sorted(masks):
        digest.update(key.encode() + b"\0")
        digest.update(masks[key].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check(parameters: Mapping[str, torch.nn.Parameter], masks: Mapping[str, torch.Tensor]) -> None:
    if set(parameters) != set(masks):
        raise TrainingError("masks and parameters have different keys")
    for key, mask in masks.items():
        if mask.shape != parameters[key].shape or not mask.any():
            raise TrainingError(
                f"mask of {key} has shape {tuple(mask.shape)} and {int(mask.sum())} active "
                f"elements; expected {tuple(parameters[key].shape)} and at least one"
            )
