"""Per-example gradients of every LoRA element, many examples in one backward pass.

PEFT computes base(x) + B(A(dropout(x))) · scale with A and B plain linear modules, so with x the
input and g the output gradient of A or B, example n's gradient is

    G_n = Σ_t g[n, t] ⊗ x[n, t]        einsum('bto,bti->boi', g, x)

and the loss Σ_n L_n makes g[n] the gradient of L_n alone, because examples don't see each other.
L_n is the mean cross-entropy over example n's answer tokens. The sums Σ G_n and Σ G_n² are kept in
float32; G_n itself lives for one module at a time. No weight asks for a gradient: backward starts
at the loss and ends at the lowest adapter. The head sees labelled positions only.

Left out: activation checkpointing (fires forward hooks twice), adapters that are not two plain
linear modules, more than one adapter. These are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from lorapar_core.errors import ModelError
from lorapar_core.loading import adapter_parameters

if TYPE_CHECKING:
    from peft import PeftModel

IGNORED = -100
Side = Literal["right", "left"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as tokens: the loss is taken on `answer_ids` only."""

    example_id: str
    prompt_ids: list[int]
    answer_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class Moments:
    """Σ g and Σ g² over `count` examples: adapter key -> float32 tensor of the weight's shape."""

    first: dict[str, torch.Tensor]
    second: dict[str, torch.Tensor]
    count: int


def moments(
    model: PeftModel,
    rows: Sequence[TokenRow],
    *,
    batch_tokens: int,
    device: str = "cpu",
    padding: Side = "right",
) -> Moments:
    """First and second moment sums of the per-example gradients over `rows`.

    Raises:
        ModelError: an adapter or a mode in which this would be wrong.
    """
    refuse_unsupported(model)
    first = {k: torch.zeros_like(p, device=device) for k, p in adapter_parameters(model).items()}
    second = {key: torch.zeros_like(total) for key, total in first.items()}
    with _capture(model, first, second), _head_at_labels(model) as select:
        for batch in batches([len(row) for row in rows], batch_tokens):
            ids, mask, labels = collate([rows[i] for i in batch], padding=padding)
            summed_loss(model, ids, mask, labels, select, device).backward()
    return Moments(first, second, len(rows))


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions grouped by length, at most `batch_tokens` padded tokens a batch.

    A pure function of the lengths: the same rows give the same batches anywhere.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def collate(
    rows: Sequence[TokenRow], *, padding: Side = "right"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, attention mask and next-token labels, each (rows, longest) int64.

    `labels[n, t]` is the token after position t where that token belongs to the answer, else -100.
    """
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for n, row in enumerate(rows):
        tokens = torch.tensor(row.prompt_ids + row.answer_ids)
        begin = 0 if padding == "right" else width - len(row)
        end = begin + len(row)
        ids[n, begin:end] = tokens
        mask[n, begin:end] = 1
        start = max(1, len(row.prompt_ids))
        labels[n, begin + start - 1 : end - 1] = tokens[start:]
    return ids, mask, labels


class _Selection:
    """Which (row, position) pairs the head is to see in the next forward pass."""

    positions: torch.Tensor | None = None  # (rows, longest) bool


def summed_loss(
    model: PeftModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
    select: _Selection,
    device: str,
) -> torch.Tensor:
    """Σ_n of the mean cross-entropy over row n's labels (nats), a scalar."""
    labels = labels.to(device)
    chosen = labels != IGNORED
    select.positions = chosen
    mask = mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # as if nothing stood before a row
    logits = model(
        input_ids=ids.to(device), attention_mask=mask, position_ids=positions, use_cache=False
    ).logits  # (labelled positions, vocabulary)
    losses = torch.nn.functional.cross_entropy(logits.float(), labels[chosen], reduction="none")
    each = chosen.sum(1)  # (rows,)
    weights = (1.0 / each.clamp(min=1)).repeat_interleave(each)
    return (losses * weights).sum()


@contextmanager
def _head_at_labels(model: PeftModel) -> Iterator[_Selection]:
    """Give the output head only the selected positions: its input becomes (selected, hidden)."""
    select = _Selection()

    def keep(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
        (hidden,) = inputs
        return (hidden[select.positions],)

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield select
    finally:
        handle.remove()


@contextmanager
def _capture(
    model: PeftModel, first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]
) -> Iterator[None]:
    """While open, every backward pass adds to the sums."""
    keys = {id(parameter): key for key, parameter in adapter_parameters(model).items()}
    handles = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and id(weight) in keys:
            key = keys[id(weight)]
            handles.append(module.register_forward_hook(_adder(first[key], second[key])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(first: torch.Tensor, second: torch.Tensor) -> Any:
    """A forward hook whose output, in backward, adds the per-example gradients to the sums."""

    def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        x = inputs[0].detach()  # (b, t, i)
        if not output.requires_grad:  # the lowest adapter: nothing below asks for a gradient
            output.requires_grad_(True)

        def add(g: torch.Tensor) -> None:  # (b, t, o)
            each = torch.einsum("bto,bti->boi", g.to(x.dtype), x).float()
            first.add_(each.sum(0))
            second.add_(each.square_().sum(0))

        output.register_hook(add)

    return hook


def refuse_unsupported(model: PeftModel) -> None:
    """Raise where per-example gradients by these hooks would be wrong.

    Raises:
        ModelError: several adapters, a LoRA variant (DoRA and others), a merged or disabled
            adapter, an embedding adapter, or activation checkpointing.
    """
    from peft.tuners.lora import LoraLayer

    if list(model.peft_config) != ["default"]:
        raise ModelError(
            f"adapters {list(model.peft_config)} are attached; scoring needs exactly one, 'default'"
        )
    if getattr(model, "is_gradient_checkpointing", False):
        raise ModelError("activation checkpointing is on; switch it off for scoring")
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            _refuse_layer(name, layer)


def _refuse_layer(name: str, layer: Any) -> None:
    problems = {
        "a LoRA variant such as DoRA": bool(getattr(layer, "lora_variant", {})),
        "an embedding adapter": bool(len(layer.lora_embedding_A)),
        "a merged adapter": layer.merged,
        "a disabled adapter": layer.disable_adapters,
        "dropout in training mode": layer.training
        and not isinstance(layer.lora_dropout["default"], torch.nn.Identity),
    }
    for problem, found in problems.items():
        if found:
            raise ModelError(
                f"{name} has {problem}; per-example gradients would be wrong. Score a plain LoRA "
                "on linear modules, unmerged, in evaluation mode"
            )
