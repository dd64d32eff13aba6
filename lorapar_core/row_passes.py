"""Rows of different lengths through a causal language model's layers, on a CPU.

`packed` puts the rows one behind the other, as if they were one: no padding is multiplied. Only
attention tells them apart. It is done row by row, by the very function that transformers calls
for a row alone; positions begin anew with each row. What all rows begin with is in the model's
cache, once, and each row attends to it as to its own tokens. `padded` is for models that don't let
attention be chosen, or that do with rows what nobody told (`packs`, which tries it).
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_LOG = logging.getLogger(__name__)
_TRIED = [1, 2, 3], [[4, 5, 6, 7], [8], [4, 9]]
"""What rows begin with, and rows."""
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""By which hidden states may differ, as a share of their norm."""
ATTENTION = "lorapar_packed"
"""Our attention's name in transformers' registry; without a mask of that name it makes none."""


def packs(model: Any) -> bool:
    """Whether `packed` computes what the model computes of each row alone, but for rounding.

    Activation checkpointing is not heeded: with it a layer is computed again when attention is the
    model's own once more, and rows have to be padded.
    """
    takes = inspect.signature(model.base_model.forward).parameters
    before, rows = _TRIED
    return (
        model.config.get_text_config()._attn_implementation == "sdpa"
        and model._supports_attention_backend
        and "position_ids" in takes
        and takes[[*takes][-1]].kind is inspect.Parameter.VAR_KEYWORD
        and has_plain_cache(model)
        and _agrees(model, before, lambda: packed(model, rows, prefilled(model, before)))
    )


def pads(model: Any) -> bool:
    """Whether `padded` computes what the model computes of each row alone: not if a token sees
    later ones."""
    return _agrees(model, [], lambda: padded(model, _TRIED[1]))


@torch.no_grad()
def _agrees(model: Any, before: list[int], passed: Callable[[], torch.Tensor]) -> bool:
    """Whether the rows of a trial, after `before`, come out as each alone, without dropout."""
    rows = _TRIED[1]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        calls = ({"input_ids": torch.tensor([before + row])} for row in rows)
        alone = [model.base_model(**call).last_hidden_state for call in calls]
        expected = torch.cat([hidden[0, len(before) :] for hidden in alone]).float()
        found = passed().float()
    except Exception as error:  # noqa: BLE001  a model may refuse in any way what it doesn't know
        _LOG.warning("%s takes no rows side by side (%s)", type(model).__name__, error)
        return False
    finally:
        for module in training:
            module.training = True
    apart = float((found - expected).norm() / expected.norm())
    if apart > _ROUNDING[model.dtype]:
        _LOG.info("%s: rows side by side differ by %.2g", type(model).__name__, apart)
    return apart <= _ROUNDING[model.dtype]


def has_plain_cache(model: Any) -> bool:
    """Whether all that the model keeps of earlier tokens is every layer's keys and values."""
    takes = inspect.signature(model.base_model.forward).parameters
    layers = DynamicCache(config=model.config).layers
    return (
        "past_key_values" in takes
        and not model._is_stateful
        and bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
    )


def prefilled(model: Any, tokens: Sequence[int]) -> DynamicCache:
    """The cache after `tokens`."""
    cache = DynamicCache(config=model.config)
    model.base_model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    return cache


def packed(
    model: Any, rows: Sequence[Sequence[int]], after: DynamicCache | None = None
) -> torch.Tensor:
    """Last hidden states (tokens, width) of all rows, one behind the other.

    Args:
        model: causal language model that `packs`, without its PEFT wrapper.
        rows: token ids, at least one each.
        after: cache of what comes before each of them; it is left as it is.
    """
    lengths = [len(row) for row in rows]
    cache, held = None, 0
    if after is not None:
        cache, held = DynamicCache(config=model.config), after.get_seq_length()
        for number, layer in enumerate(after.layers):
            cache.update(layer.keys, layer.values, number)
    positions = torch.cat([torch.arange(held, held + length) for length in lengths])
    with _row_by_row(model):
        outputs = model.base_model(
            input_ids=torch.tensor([[token for row in rows for token in row]]),
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=cache is not None,
            cu_seq_lens_q=torch.tensor([0, *lengths]).cumsum(0),
        )
    hidden: torch.Tensor = outputs.last_hidden_state[0]
    return hidden


def padded(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """As `packed`, with padding on the right, which no token sees."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return torch.cat([states[: len(row)] for states, row in zip(hidden, rows, strict=True)])


@contextmanager
def _row_by_row(model: Any) -> Iterator[None]:
    config = model.config.get_text_config()
    own = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = own


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Of query (1, heads, tokens, width), key and value (1, key heads, held + tokens, width).

    Raises:
        ValueError: the model has a mask of its own making.
    """
    if attention_mask is not None:
        raise ValueError("its attention has a mask of its own")
    lengths = cu_seq_lens_q.diff().tolist()
    held = key.shape[2] - query.shape[2]
    queries = query.split(lengths, 2)
    keys, values = _after(held, key, lengths), _after(held, value, lengths)
    outputs = [
        sdpa_attention_forward(module, q, k, v, _sees(q.shape[2], held), **more)[0]
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, 1), None


def _after(held: int, tensor: torch.Tensor, lengths: list[int]) -> Sequence[torch.Tensor]:
    """What each row sees: the first `held` tokens, and its own."""
    before, *rows = tensor.split([held, *lengths], 2)
    return [torch.cat([before, own], 2) for own in rows] if held else rows


def _sees(tokens: int, held: int) -> torch.Tensor | None:
    """Which tokens each of a row's sees, (1, 1, tokens, held + tokens); None where it goes without
    saying: of a row alone, and of one token, which sees all."""
    if not held or tokens == 1:
        return None
    size = 1 << (held + tokens - 1).bit_length()  # one mask serves all lengths up to it
    return _triangle(size)[None, None, held : held + tokens, : held + tokens]


@functools.lru_cache(maxsize=2)
def _triangle(size: int) -> torch.Tensor:
    return torch.ones(size, size, dtype=torch.bool).tril()


AttentionInterface.register(ATTENTION, _attention)
