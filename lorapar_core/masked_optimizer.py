"""Any element-wise optimizer, over active elements only.

The outer `param_groups` hold the real LoRA parameters, so that schedulers, accelerate, gradient
clipping and loss scaling see them. The state belongs to flat vectors of active elements, one for
some four million elements of the adapter. `step` gathers a chunk's weights and gradients into its
vector, has the inner optimizer step it, and scatters the weights back; between steps there are the
inner state and one bit an element, and no second copy of any weight. An inactive element is never
computed with: it keeps its bits under weight decay, clipping, accumulation and resume.

A gradient hook zeroes inactive gradients before they are accumulated, infinite ones too, so the
clip norm is the norm of the active ones; a parameter with no active element asks for no gradient.
(It has the hook too: PEFT asks for every gradient again when trl comes back from its reference
adapter.)

(The authors' script masks gradients and leaves AdamW alone: its decay still shrinks "frozen"
elements, and both moments are kept for all of them.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lorapar_core.errors import TrainingError
from lorapar_core.packed_mask import PackedMask, mask_digest, positions

CHUNK = 1 << 22
"""Adapter elements that are gathered at a time: what a step takes beside its state."""
VECTOR = 64
"""A CPU's fused kernels round an element otherwise at the end of a tensor, where no whole vector
instruction fits (at most 16 elements). A LoRA tensor has no such end, and so a chunk has none."""
ELEMENTWISE = (
    *("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop"),
    *("Rprop", "SGD"),  # torch's; and those of bitsandbytes:
    *("Adam8bit", "AdamW8bit", "Lion", "Lion8bit", "RMSprop8bit"),
)
"""Classes that treat each element by itself. (Those of 8 bits share a scale in blocks of elements,
of whichever vector they are given.)"""


class MaskedOptimizer(torch.optim.Optimizer):
    """An optimizer of the elements that `masks` marks.

    A parameter without a gradient is stepped as with one of zeros. Where a step fails, go on from a
    checkpoint: some elements may have been stepped.

    Args:
        parameters: key -> float32 parameter that asks for a gradient.
        masks: the same keys -> mask of the parameter's shape and device, with at least one active
            element.
        inner: class of the optimizer, one of `ELEMENTWISE`.
        settings: its arguments; torch's fused kernels are used where it has them.

    Raises:
        TrainingError: keys, shapes or devices differ, a mask is empty, a parameter isn't float32
            and contiguous, or the optimizer isn't element-wise.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        masks: Mapping[str, PackedMask],
        *,
        inner: type[torch.optim.Optimizer] = torch.optim.AdamW,
        **settings: Any,
    ) -> None:
        _check(parameters, masks)
        refuse_unfit(inner)
        self.mask_digest = mask_digest(masks)
        self.active_count = sum(mask.active for mask in masks.values())
        """How many elements train."""
        self._chunks = list(_chunks(parameters, masks))
        settings = {**_fused(inner), **settings}
        self._inner = [inner([chunk.flat], **settings) for chunk in self._chunks]
        for chunk in self._chunks:
            chunk.release()
        defaults = _without_params(self._inner[0].param_groups[0])
        super().__init__([parameters[key] for key in sorted(parameters)], defaults)

    @property
    def state_bytes(self) -> int:
        """What its state takes: moments, step counts, and the padding of each. No weights."""
        states = [state for inner in self._inner for state in inner.state.values()]
        tensors = [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise TrainingError("MaskedOptimizer takes no closure")
        settings = _without_params(self.param_groups[0])
        for chunk, inner in zip(self._chunks, self._inner, strict=True):
            inner.param_groups[0].update(settings)
            with chunk.gathered():
                inner.step()

    def state_dict(self) -> dict[str, Any]:
        return {
            "inner": [inner.state_dict() for inner in self._inner],
            "param_groups": [_without_params(group) for group in self.param_groups],
            **self._identity(),
        }

    def _identity(self) -> dict[str, Any]:
        """What a saved state must agree with."""
        sizes = [sum(mask.active for mask in chunk.masks) for chunk in self._chunks]
        inner = type(self._inner[0]).__name__
        return {"mask_digest": self.mask_digest, "optimizer": inner, "chunks": sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state.

        Raises:
            TrainingError: it was saved for another mask, or by another optimizer.
        """
        for name, ours in self._identity().items():
            saved = state_dict.get(name)
            if saved != ours:
                raise TrainingError(
                    f"optimizer state was saved for {name} {str(saved)[:12]}, this stage's is "
                    f"{str(ours)[:12]}; start the stage anew"
                )
        for inner, values in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(values)
        for group, values in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(values)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some whole parameters, and the vector of their active elements."""

    parameters: Sequence[torch.nn.Parameter]
    masks: Sequence[PackedMask]
    flat: torch.nn.Parameter
    """Empty between steps."""

    @classmethod
    def of(cls, parameters: Sequence[torch.nn.Parameter], masks: Sequence[PackedMask]) -> _Chunk:
        """With the vector filled, for an optimizer that makes its state by it."""
        chunk = cls(parameters, masks, torch.nn.Parameter(torch.empty(0)))
        chunk.flat.data = _selected(_concatenated(parameters), positions(masks))
        return chunk

    def release(self) -> None:
        """Empty the vector: the parameters hold the weights."""
        self.flat.data = self.flat.data.new_empty(0)
        self.flat.grad = None

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The vector holds the active weights and gradients; at the end they are written back."""
        index = positions(self.masks)
        weights = _concatenated(self.parameters)
        self.flat.data = _selected(weights, index)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.flat.grad = _selected(_concatenated(gradients), index)
        try:
            yield
            weights.scatter_(0, index, self.flat.data[: len(index)])
            flat = [parameter.view(-1) for parameter in self.parameters]
            torch._foreach_copy_(flat, list(weights.split([len(part) for part in flat])))
        finally:
            self.release()


def _concatenated(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """(elements,)."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _selected(elements: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The elements at `index`, and zeros up to a whole number of `VECTOR`s."""
    count = len(index)
    padded = elements.new_zeros(-(-count // VECTOR) * VECTOR)
    torch.index_select(elements, 0, index, out=padded[:count])
    return padded


def _chunks(
    parameters: Mapping[str, torch.nn.Parameter], masks: Mapping[str, PackedMask]
) -> Iterator[_Chunk]:
    """Runs of parameters, in key order, of at most `CHUNK` elements, or of one that has more."""
    run: list[str] = []
    size = 0
    for key in sorted(parameters):
        count = parameters[key].numel()
        if run and size + count > CHUNK:
            yield _Chunk.of([parameters[k] for k in run], [masks[k] for k in run])
            run, size = [], 0
        run.append(key)
        size += count
    yield _Chunk.of([parameters[k] for k in run], [masks[k] for k in run])


def refuse_unfit(inner: type[torch.optim.Optimizer]) -> None:
    """Refuse an optimizer that can't work on single elements.

    Raises:
        TrainingError: it needs a parameter's whole matrix, or a closure, or isn't known.
    """
    if inner.__name__ in ELEMENTWISE:
        return
    reasons = {
        "LBFGS": "needs a closure",
        "SparseAdam": "needs sparse gradients",
        **dict.fromkeys(("Adafactor", "Muon"), "needs a parameter's whole matrix"),
    }
    reason = reasons.get(inner.__name__, "is not known to treat each element by itself")
    known = ", ".join(ELEMENTWISE)
    raise TrainingError(f"optimizer {inner.__name__} {reason}; masked training takes {known}")


def _fused(inner: type[torch.optim.Optimizer]) -> dict[str, bool]:
    has = inner in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
    return {"fused": True} if has else {}


def _without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def restrict(
    parameters: Mapping[str, torch.nn.Parameter], masks: Mapping[str, PackedMask]
) -> tuple[dict[str, torch.nn.Parameter], dict[str, PackedMask]]:
    """Let only active elements get gradients; returns the parameters that have some, and masks.

    Every parameter's `requires_grad` is set, and each gets a gradient hook, once and for all.

    Args:
        parameters: every key of the adapter -> its parameter.
        masks: the same keys -> mask of the parameter's shape and device.

    Raises:
        TrainingError: keys, shapes or devices differ, nothing is active, or a parameter has hooks.
    """
    if set(parameters) != set(masks):
        odd = sorted(set(parameters) ^ set(masks))
        raise TrainingError(f"masks don't fit the adapter: {len(odd)} keys differ, {odd[0]} first")
    trained = {key: parameter for key, parameter in parameters.items() if masks[key].active}
    for key, parameter in parameters.items():
        _check_one(key, parameter, masks[key])
        if parameter._backward_hooks:  # those of another mask would leave what both mark
            raise TrainingError(f"{key} has gradient hooks already; attach the adapter anew")
        parameter.requires_grad_(True)
        parameter.register_hook(_masking(masks[key]))
        parameter.requires_grad_(key in trained)
    if not trained:
        raise TrainingError("the mask has no active element; raise theta, alpha or beta")
    return trained, {key: masks[key] for key in trained}


def _masking(mask: PackedMask) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: torch.where(mask.flags(), gradient, 0.0)


def _check(parameters: Mapping[str, torch.nn.Parameter], masks: Mapping[str, PackedMask]) -> None:
    if set(parameters) != set(masks):
        raise TrainingError("masks and parameters have different keys")
    for key, mask in masks.items():
        _check_one(key, parameters[key], mask)
        if not mask.active:
            raise TrainingError(f"mask of {key} has no active element; expected at least one")
    devices = sorted({str(parameter.device) for parameter in parameters.values()})
    if len(devices) != 1:
        raise TrainingError(f"the adapter lies on {', '.join(devices)}; expected one device")


def _check_one(key: str, parameter: torch.nn.Parameter, mask: PackedMask) -> None:
    found = (tuple(mask.shape), mask.bits.device)
    expected = (tuple(parameter.shape), parameter.device)
    if found != expected:
        raise TrainingError(
            f"mask of {key} has shape {found[0]} on {found[1]}; expected {expected[0]} on "
            f"{expected[1]}, as its parameter has"
        )
    if parameter.dtype != torch.float32 or not parameter.is_contiguous():
        raise TrainingError(
            f"{key} is {parameter.dtype}, contiguous: {parameter.is_contiguous()}; masked training "
            "takes contiguous float32 parameters"
        )
