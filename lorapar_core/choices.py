"""How likely a model finds each choice after a prompt: log p(continuation | context), in nats.

Context and continuation are tokenised as one text, and the context's own tokens counted off, as
lm-evaluation-harness does. Letters are single tokens mostly, so that one row, the context, serves
all of a problem's choices. What all rows begin with (MMLU's worked examples of a subject) goes
through the model once (`shared_prefix`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorapar_core.batches import batches
from lorapar_core.prompts import Tokenizer, plain_ids
from lorapar_core.shared_prefix import common_prefix, logprobs_at, prefix_cache

if TYPE_CHECKING:
    import torch

HEAD_PLACES = 1024
"""A place has as many logits as there are tokens: 200 MiB of SmolLM2's, in float32."""
Row = tuple[int, ...]
Pair = tuple[int, int]
"""Positions of a problem, and of a choice in it."""


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of a continuation, and where in its row the first is predicted."""

    row: Row
    place: int
    tokens: Sequence[int]

    @property
    def places(self) -> range:
        return range(self.place, self.place + len(self.tokens))


def span_of(tokenizer: Tokenizer, context: str, continuation: str) -> Span:
    """A continuation's span; the last token is in no row, since nothing follows it.

    Raises:
        ValueError: the context or the continuation has no token of its own.
    """
    whole, start = plain_ids(tokenizer, context + continuation), len(plain_ids(tokenizer, context))
    if not 0 < start < len(whole):
        raise ValueError(f"{continuation!r} after {context[-40:]!r} has no tokens of its own")
    return Span(tuple(whole[:-1]), start - 1, whole[start:])


def choice_logprobs(
    model: Any,
    spans: Sequence[Sequence[Span]],
    *,
    batch_tokens: int,
    device: str,
    share: bool = True,
) -> Iterator[dict[Pair, float]]:
    """Log-probabilities (nats), batch by batch.

    Args:
        model: causal language model, perhaps with an adapter.
        spans: of each problem, one a choice. Rows of all that begin alike are computed so.
        batch_tokens: tokens side by side at most, what rows have in common counted for each.
        device: where the model is.
        share: compute what the rows have in common once; else with every row.
    """
    asked: dict[Row, list[tuple[Pair, Span]]] = {}
    for i, choices in enumerate(spans):
        for c, span in enumerate(choices):
            asked.setdefault(span.row, []).append(((i, c), span))
    rows = list(asked)
    prefix: list[int] = []
    if share and shares(model):
        first = min(span.place for choices in spans for span in choices)
        prefix = common_prefix([list(row) for row in rows])[:first]
    cache = prefix_cache(model, prefix, device)
    own = [list(row[len(prefix) :]) for row in rows]
    places = [
        sorted({p - len(prefix) for _, span in asked[row] for p in span.places}) for row in rows
    ]
    for batch in batches([len(row) for row in rows], batch_tokens):
        for part in few_places(batch, places):
            told = [own[r] for r in part], [places[r] for r in part]
            found = _logprobs(model, *told, cache, len(prefix), device)
            yield {
                pair: sum(
                    float(logprobs[places[r].index(place - len(prefix)), token])
                    for place, token in zip(span.places, span.tokens, strict=True)
                )
                for r, logprobs in zip(part, found, strict=True)
                for pair, span in asked[rows[r]]
            }


def few_places(
    batch: Sequence[int], places: Sequence[Sequence[int]], *, most: int = HEAD_PLACES
) -> Iterator[list[int]]:
    """Rows of a batch, in their order, in parts that have the head look at no more than `most`
    places: it looks at a place of one row in all rows beside it."""
    part, seen = list[int](), set[int]()
    for row in batch:
        more = seen | {*places[row]}
        if part and (len(part) + 1) * len(more) > most:
            yield part
            part, more = [], {*places[row]}
        part.append(row)
        seen = more
    yield part


def shares(model: Any) -> bool:
    """Whether rows may go on from keys and values of what they have in common."""
    from lorapar_core.label_logprobs import has_fixed_positions
    from lorapar_core.row_passes import has_plain_cache

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return not _has_virtual_tokens(model) and has_plain_cache(plain) and has_fixed_positions(plain)


def _has_virtual_tokens(model: Any) -> bool:
    """Whether an adapter puts tokens of its own before every row (prompt tuning and its kin)."""
    configs = getattr(model, "peft_config", None) or {}
    return any(config.is_prompt_learning for config in configs.values())


def _logprobs(
    model: Any,
    rows: Sequence[list[int]],
    places: Sequence[list[int]],
    cache: list[Any],
    prefix: int,
    device: str,
) -> list[torch.Tensor]:
    """`logprobs_at`; rows behind virtual tokens one by one, their logits counted from the end."""
    import torch

    if not _has_virtual_tokens(model):
        return logprobs_at(model, rows, places, cache, prefix, device)
    found = []
    with torch.inference_mode():
        for row, at in zip(rows, places, strict=True):
            ids = torch.tensor([row], device=device)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            found.append(logits[0, -len(row) :][at].float().log_softmax(-1).cpu())
    return found
