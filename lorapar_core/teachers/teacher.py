"""What a teacher is: something that has a vote on each of many questions kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from lorapar_core.teachers.ballot import Ballot, Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.replies import Form

Render = Callable[[Question, Form], str]
"""The user message that asks a question, for a reply of that form."""


class Teacher(Protocol):
    """A model, behind an API or here, or votes that were given before."""

    def vote(self, questions: Sequence[Question], ledger: Ledger) -> Mapping[str, Ballot]:
        """Have the ledger hold a vote on each; a vote counts once it is there.

        Returns the abstentions that it doesn't hold, by example: another run may ask again.

        Raises:
            LoraparError: it can't go on; the votes so far are in the ledger.
        """
        ...
