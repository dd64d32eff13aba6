"""Gradient moment sums over examples, for importance (paper, section 3.2).

The loss is Σ_n L_n, L_n the mean cross-entropy over example n's answer tokens. Its gradient at the
logits is known, (softmax − one-hot) / answer tokens, so backward starts there and no loss is
computed; the head sees labelled positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from lorapar_core.batches import batches
from lorapar_core.errors import DataError
from lorapar_core.per_example import summing

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
        DataError: a row has no answer token that a token stands before.
    """
    for row in rows:
        if len(row) < 2 or not row.answer_ids:
            raise DataError(
                f"example {row.example_id} has {len(row.prompt_ids)} prompt tokens and "
                f"{len(row.answer_ids)} answer tokens; an answer needs one before it"
            )
    with summing(model) as sums, _head_at_labels(model) as select:
        for batch in batches([len(row) for row in rows], batch_tokens):
            ids, mask, labels = collate([rows[i] for i in batch], padding=padding)
            sums.expect(ids)
            # On the right nothing attends to padding, and causal attention needs no mask.
            masking = _masking(mask.to(device)) if padding == "left" else {}
            backward(model, ids.to(device), labels.to(device), select, **masking)
    return Moments(sums.first, sums.second, len(rows))


def _masking(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Attention mask, and positions as if nothing stood before a row."""
    return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


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


def backward(
    model: PeftModel,
    ids: torch.Tensor,
    labels: torch.Tensor,
    select: _Selection,
    **masking: torch.Tensor,
) -> None:
    """Backward from Σ_n of the mean cross-entropy over row n's labels."""
    chosen = labels != IGNORED
    select.positions = chosen
    logits = model(input_ids=ids, use_cache=False, **masking).logits  # (labelled, vocabulary)
    each = chosen.sum(1)  # (rows,)
    with torch.no_grad():
        slope = torch.softmax(logits, -1, dtype=torch.float32)
        slope[torch.arange(len(slope), device=slope.device), labels[chosen]] -= 1
        slope /= each.repeat_interleave(each)[:, None]
    logits.backward(slope.to(logits.dtype))


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
