"""From a teacher's rows in `votes.parquet` to its votes.

A teacher that gives log-probabilities votes System 2 when its log-odds, less its calibration
offset, are positive:

    offset = 0                        none
           = log-odds(content-free)   content_free
           = mean log-odds            batch
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lorapar_core.teachers.ballot import CONTENT_FREE_ID

COLUMNS = ("example_id", "label", "logprob_1", "logprob_2")
"""What is read of `votes.parquet`."""
Labels = dict[str, int | None]
"""Example id -> 1, 2, or None for an abstention: one teacher's."""


def labels_of(
    tables: Iterable[Mapping[str, Sequence[Any]]], calibration: str
) -> tuple[Labels, float]:
    """A teacher's votes out of its rounds, and the offset that was taken off (nats)."""
    votes: Labels = {}
    log_odds: dict[str, float] = {}
    for table in tables:
        rows = zip(*(table[name] for name in COLUMNS), strict=True)
        for example_id, label, one, two in rows:
            votes[example_id] = label
            if one is not None and two is not None:
                log_odds[example_id] = two - one
    votes.pop(CONTENT_FREE_ID, None)
    if calibration == "none" or not log_odds:
        return votes, 0.0
    labels, offset = calibrated(log_odds, calibration)
    return {**votes, **labels}, offset


def calibrated(log_odds: Mapping[str, float], calibration: str) -> tuple[dict[str, int], float]:
    """Labels out of log p(2) - log p(1), and the offset that was taken off (nats)."""
    examples = {e: odds for e, odds in log_odds.items() if e != CONTENT_FREE_ID}
    offset = 0.0
    if calibration == "batch":
        offset = math.fsum(examples.values()) / len(examples)
    elif calibration == "content_free":
        offset = log_odds[CONTENT_FREE_ID]
    return {e: 2 if odds - offset > 0 else 1 for e, odds in examples.items()}, offset
