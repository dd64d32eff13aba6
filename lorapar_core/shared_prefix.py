"""What rows of tokens begin with in common, through the model once for all of them.

The keys and values over the prefix are computed in one pass and copied to each row of a batch, and
the rows' own tokens go on from there. Rows are padded on the right, where causal attention has no
token look, so that their positions are plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """The longest prefix of all rows that leaves each at least one token."""
    shortest, longest = min(rows), max(rows)  # lexicographic neighbours decide for all
    same = 0
    limit = min(len(row) for row in rows) - 1
    while same < limit and shortest[same] == longest[same]:
        same += 1
    return shortest[:same]


def prefix_cache(model: Any, prefix: list[int], device: str) -> list[Any]:
    """Key and value of each layer over the prefix, each (1, kv heads, prefix, head dim)."""
    import torch

    if not prefix:
        return []
    ids = torch.tensor([prefix], device=device)
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def logprobs_at(
    model: Any,
    rows: Sequence[list[int]],
    places: Sequence[Sequence[int]],
    cache: list[Any],
    prefix: int,
    device: str,
) -> list[torch.Tensor]:
    """Log-probabilities, float32 on the CPU, of what follows places of each row.

    Args:
        model: causal language model, perhaps with an adapter.
        rows: token ids after the prefix, at least one each.
        places: of each row, positions in it.
        cache: `prefix_cache` of the prefix; it is left as it is.
        prefix: tokens of the prefix.
        device: where the model is.

    Returns:
        One tensor (places, vocabulary) a row.
    """
    import torch
    from transformers import DynamicCache

    count, width = len(rows), max(len(row) for row in rows)
    ids = torch.zeros(count, width, dtype=torch.long)
    mask = torch.zeros(count, prefix + width, dtype=torch.long)
    mask[:, :prefix] = 1
    for r, row in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        mask[r, prefix : prefix + len(row)] = 1
    past = DynamicCache()
    for layer, (keys, values) in enumerate(cache):
        past.update(keys.repeat(count, 1, 1, 1), values.repeat(count, 1, 1, 1), layer)
    # The head only where some row is looked at.
    keep = torch.tensor(sorted({place for row in places for place in row}))
    with torch.inference_mode():
        logits = model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            past_key_values=past,
            use_cache=True,
            logits_to_keep=keep.to(device),
        ).logits
        return [
            logits[r, torch.searchsorted(keep, torch.tensor(row)).to(logits.device)]
            .float()
            .log_softmax(-1)
            .cpu()
            for r, row in enumerate(places)
        ]
