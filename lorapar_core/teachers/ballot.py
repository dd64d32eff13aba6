"""A vote, as it is counted and as it is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lorapar_core.parquet import write_table

CONTENT_FREE_ID = "content-free"
_REPLY = re.compile(r"\s*(?:system\s*)?([12])\s*\.?\s*", re.IGNORECASE)

VOTES = pa.schema(
    [
        ("example_id", pa.string()),
        ("teacher", pa.string()),
        ("label", pa.int8()),
        ("logprob_1", pa.float64()),
        ("logprob_2", pa.float64()),
        ("reply", pa.string()),
        ("served_model", pa.string()),
    ]
)
VOTE_LOG = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("seconds", pa.float64()),
        ("attempts", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Ballot:
    """One teacher's answer on one example. `label` None is an abstention; a log-probability is
    in nats, and None where the teacher gives none; `cost_usd` None is unknown."""

    example_id: str
    label: int | None
    reply: str
    served_model: str
    logprob_1: float | None = None
    logprob_2: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    attempts: int = 1


def parse_reply(reply: str) -> int | None:
    """1 or 2 if the reply is just that (`System 2`, `2`, `system 2.`), else None.

    >>> parse_reply("System 2"), parse_reply("System 1 or System 2")
    (2, None)
    """
    found = _REPLY.fullmatch(reply)
    return int(found[1]) if found else None


def write_ballots(out: Path, ballots: Iterable[Ballot], *, teacher: str) -> None:
    """`votes.parquet` and `vote_log.parquet`, in the order given."""
    rows = list(ballots)
    votes = {name: [getattr(b, name) for b in rows] for name in VOTES.names if name != "teacher"}
    write_table(out / "votes.parquet", {**votes, "teacher": [teacher] * len(rows)}, VOTES)
    log = {name: [getattr(b, name) for b in rows] for name in VOTE_LOG.names}
    write_table(out / "vote_log.parquet", log, VOTE_LOG)
