"""A transformers model as teacher: the log-probabilities of the two labels, no sampling.

Both labelled prompts are tokenised whole; where they first differ, the next-token distribution
gives log p(label). All prompts of a teacher begin alike, so the KV cache of their common prefix
is computed once and expanded to each batch; the head sees the last position only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorapar_core import events
from lorapar_core.batches import batches
from lorapar_core.errors import VoteError
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.teachers.ballot import CONTENT_FREE_ID, Ballot, Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.prompts import LABELS, REPLY_START, WITHOUT_TEMPLATE
from lorapar_core.teachers.teacher import Render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 4096
DIGITS = 4
"""Of a log-probability. More depend on which examples were in the batch: on what was asked before,
and on where a killed run went on."""


class LocalTeacher:
    """Votes of one local model."""

    def __init__(
        self,
        path: Path,
        *,
        render: Render,
        label: str,
        dtype: str,
        attention: str,
        device: str,
        template: str,
        quantization: str = "none",
    ) -> None:
        self._render = render
        self._label = label
        self._device = device
        self._tokenizer = load_tokenizer(path, chat_template=template)
        self._model = load_base(
            path, dtype=dtype, attention=attention, quantization=quantization, device=device
        )

    def vote(self, questions: Sequence[Question], ledger: Ledger) -> Mapping[str, Ballot]:
        """See `Teacher`.

        Raises:
            VoteError: a log-probability is no number, or the disk refuses.
        """
        contexts = [
            label_context(self._tokenizer, self._render(question, "text")) for question in questions
        ]
        scores = label_logprobs(self._model, contexts, device=self._device)
        left = {question.example_id for question in questions} - {CONTENT_FREE_ID}
        total = len(left)
        for batch in scores:
            ballots = [self._ballot(questions[i].example_id, *pair) for i, pair in batch.items()]
            ledger.keep_now(ballots)
            left -= {ballot.example_id for ballot in ballots}
            events.progress(step=total - len(left), total=total)
        return {}

    def _ballot(self, example_id: str, one: float, two: float) -> Ballot:
        if not (math.isfinite(one) and math.isfinite(two)):
            raise VoteError(
                f"teacher {self._label} gives log-probabilities {(one, two)} for example "
                f"{example_id}; use model.dtype: float32, or look for broken weights"
            )
        one, two = round(one, DIGITS), round(two, DIGITS)
        return Ballot(
            example_id=example_id,
            label=1 if one >= two else 2,
            reply="",
            served_model=self._label,
            logprob_1=one,
            logprob_2=two,
        )


Context = tuple[list[int], int, int]
"""Token ids up to where the labels differ, then the token of label 1 and of label 2."""


def label_context(tokenizer: PreTrainedTokenizerBase, message: str) -> Context:
    """What precedes the deciding token, and the two tokens it may be."""
    text = _rendered(tokenizer, message) + REPLY_START
    special = not tokenizer.chat_template
    one, two = (
        tokenizer(text + LABELS[system], add_special_tokens=special)["input_ids"]
        for system in (1, 2)
    )
    same = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    return one[:same], one[same], two[same]


def _rendered(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    message = _without_special_tokens(tokenizer, message)
    if not tokenizer.chat_template:
        return message + WITHOUT_TEMPLATE
    chat = [{"role": "user", "content": message}]
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return text


def _without_special_tokens(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    """`message` with special tokens broken up: an example that spells one out ends no turn."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted(special, key=len, reverse=True):
        message = message.replace(token, f"{token[0]} {token[1:]}")
    return message


def label_logprobs(
    model: PreTrainedModel, contexts: Sequence[Context], *, device: str
) -> Iterator[dict[int, tuple[float, float]]]:
    """Log-probabilities (nats) of both labels, batch by batch: position -> its two."""
    prefix = _common_prefix([ids for ids, _, _ in contexts])
    cache = _prefix_cache(model, prefix, device)
    for batch in batches([len(ids) - len(prefix) for ids, _, _ in contexts], BATCH_TOKENS):
        rows = [contexts[i][0][len(prefix) :] for i in batch]
        logprobs = _last_logprobs(model, rows, cache, len(prefix), device)
        yield {
            i: (float(row[contexts[i][1]]), float(row[contexts[i][2]]))
            for i, row in zip(batch, logprobs, strict=True)
        }


def _common_prefix(rows: Sequence[list[int]]) -> list[int]:
    """The longest prefix of all rows that leaves each at least one token."""
    shortest, longest = min(rows), max(rows)  # lexicographic neighbours decide for all
    same = 0
    limit = min(len(row) for row in rows) - 1
    while same < limit and shortest[same] == longest[same]:
        same += 1
    return shortest[:same]


@torch.inference_mode()
def _prefix_cache(model: PreTrainedModel, prefix: list[int], device: str) -> list[Any]:
    """Key and value of each layer over the common prefix, each (1, kv heads, prefix, head dim)."""
    if not prefix:
        return []
    ids = torch.tensor([prefix], device=device)
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


@torch.inference_mode()
def _last_logprobs(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    cache: list[Any],
    prefix: int,
    device: str,
) -> torch.Tensor:
    """Log-probabilities (rows, vocabulary) of the token after each row."""
    from transformers import DynamicCache

    count, width = len(rows), max(len(row) for row in rows)
    ids = torch.zeros(count, width, dtype=torch.long)
    mask = torch.zeros(count, prefix + width, dtype=torch.long)
    mask[:, :prefix] = 1
    for r, row in enumerate(rows):  # padded on the right: the rows' positions are plain
        ids[r, : len(row)] = torch.tensor(row)
        mask[r, prefix : prefix + len(row)] = 1
    past = DynamicCache()
    for layer, (keys, values) in enumerate(cache):
        past.update(keys.repeat(count, 1, 1, 1), values.repeat(count, 1, 1, 1), layer)
    last = torch.tensor([len(row) - 1 for row in rows])
    keep = torch.unique(last)  # the head only where some row ends
    logits = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        past_key_values=past,
        use_cache=True,
        logits_to_keep=keep.to(device),
    ).logits
    ends = logits[torch.arange(count), torch.searchsorted(keep, last).to(logits.device)]
    logprobs: torch.Tensor = ends.float().log_softmax(-1).cpu()
    return logprobs
