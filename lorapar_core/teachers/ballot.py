"""A question, the vote it comes to, and every request that was made for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

CONTENT_FREE_ID = "content-free"
OFF_SCHEMA, REFUSED, LATE = "off_schema", "refused", "deadline"
"""Why a ballot has no label."""


@dataclass(frozen=True, slots=True)
class Question:
    """An example as a teacher is shown it."""

    example_id: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Ballot:
    """One teacher's vote on one example.

    `label` is 1, 2, or None for an abstention; `abstained` then says why: `off_schema` (two replies
    that are no label), `refused` (the provider won't take this example), `deadline`. A
    log-probability is in nats, and None where the teacher gives none.
    """

    example_id: str
    label: int | None
    reply: str
    served_model: str
    abstained: str = ""
    logprob_1: float | None = None
    logprob_2: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. `outcome` is `vote`, or what went wrong; `cost_usd` None is unknown."""

    example_id: str
    outcome: str
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0


def vote_key(asked: str, example_id: str) -> str:
    """A vote's identity: how it was asked (a digest), and of which example (its content's digest).

    Same key, same vote: nobody asks twice.
    """
    return hashlib.sha256(f"{asked}:{example_id}".encode()).hexdigest()


def ids_digest(ids: Iterable[str]) -> str:
    """Names the examples that a teacher was asked about, in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
