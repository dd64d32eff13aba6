"""A transformers model as teacher: the log-probabilities of the two labels, no sampling.

Both labelled prompts are tokenised whole; where they first differ, the next-token distribution
gives log p(label). All prompts of a teacher begin alike, so the KV cache of their common prefix
is computed once and expanded to each batch; the head sees the last position only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar_core import events
from lorapar_core.batches import batches
from lorapar_core.errors import VoteError
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.shared_prefix import common_prefix, logprobs_at, prefix_cache
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
    prefix = common_prefix([ids for ids, _, _ in contexts])
    cache = prefix_cache(model, prefix, device)
    for batch in batches([len(ids) - len(prefix) for ids, _, _ in contexts], BATCH_TOKENS):
        rows = [contexts[i][0][len(prefix) :] for i in batch]
        ends = [[len(row) - 1] for row in rows]
        logprobs = logprobs_at(model, rows, ends, cache, len(prefix), device)
        yield {
            i: (float(row[0, contexts[i][1]]), float(row[0, contexts[i][2]]))
            for i, row in zip(batch, logprobs, strict=True)
        }
