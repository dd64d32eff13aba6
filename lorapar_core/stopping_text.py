"""Texts that end an answer, though no token does: "\\ndef" after a function that is complete.

Looked for in the text, not in the tokens: a stop may begin or end within one. Each row ends by
itself, at the same token whatever stands beside it in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SPARE = 2
"""Tokens before those that a stop can take up: a decoder may treat a text's first token its own
way."""


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """What stands before the first stop, and whether there is any.

    >>> before_stop("return 1\\ndef f", ["\\ndef", "\\nclass"])
    ('return 1', True)
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


class StopTexts:
    """A stopping criterion for transformers' `generate`; `ended` says how long stopped rows are."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], *, start: int = 0) -> None:
        self._tokenizer, self.stops = tokenizer, stops
        self.start = start
        """The column at which completions begin."""
        # A token holds at least a byte, so that a stop takes up no more tokens than bytes.
        self._tail = max((len(stop.encode()) for stop in stops), default=0) + _SPARE
        self.ended: dict[int, int] = {}
        """Row -> tokens of its completion, where a stop ended it."""

    def __call__(self, ids: torch.Tensor, _scores: Any, **_more: Any) -> torch.Tensor:
        """Which rows have ended, (rows,) bool, of `ids` (rows, columns)."""
        import torch

        made = ids.shape[1] - self.start
        tails = ids[:, max(self.start, ids.shape[1] - self._tail) :].tolist()
        for row, tail in enumerate(tails):
            text = self._tokenizer.decode(tail, skip_special_tokens=True)
            if row not in self.ended and before_stop(text, self.stops)[1]:
                self.ended[row] = made
        done = [row in self.ended for row in range(len(tails))]
        return torch.tensor(done, device=ids.device)
