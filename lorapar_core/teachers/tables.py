"""Votes, and the requests that were made for them, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorapar_core.parquet import write_table
from lorapar_core.teachers.ballot import Attempt, Ballot, vote_key

VOTES = pa.schema(
    [
        ("key", pa.string()),
        ("example_id", pa.string()),
        ("teacher", pa.string()),
        ("label", pa.int8()),
        ("abstained", pa.string()),
        ("logprob_1", pa.float64()),
        ("logprob_2", pa.float64()),
        ("reply", pa.string()),
        ("served_model", pa.string()),
    ]
)
ATTEMPTS = pa.schema(
    [
        ("example_id", pa.string()),
        ("outcome", pa.string()),
        ("status", pa.int16()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("seconds", pa.float64()),
    ]
)


def write_votes(
    out: Path, ballots: Sequence[Ballot], attempts: Sequence[Attempt], *, teacher: str, asked: str
) -> None:
    """`votes.parquet` in the order given, and `vote_log.parquet`, which no key reads."""
    own: dict[str, Sequence[Any]] = {
        "key": [vote_key(asked, ballot.example_id) for ballot in ballots],
        "teacher": [teacher] * len(ballots),
        "abstained": [ballot.abstained or None for ballot in ballots],
    }
    rest = {n: [getattr(b, n) for b in ballots] for n in VOTES.names if n not in own}
    write_table(out / "votes.parquet", {**own, **rest}, VOTES)
    log = {name: [getattr(attempt, name) for attempt in attempts] for name in ATTEMPTS.names}
    write_table(out / "vote_log.parquet", log, ATTEMPTS)
