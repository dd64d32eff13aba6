"""Stage `tally`: votes become labels.

A teacher that gives log-probabilities votes System 2 when its log-odds, less its calibration
offset, are positive:

    offset = 0                        none
           = log-odds(content-free)   content_free
           = mean log-odds            batch

The label is the majority of the votes. Abstentions don't count; with as many votes for one system
as for the other the tie rule decides; with fewer votes than the quorum the example is dropped.

config: teachers (name -> calibration), tie, quorum. Writes `labels.parquet` and `agreement.json`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorapar_core.parquet import read_table, write_table
from lorapar_core.spec import Spec
from lorapar_core.teachers.ballot import CONTENT_FREE_ID

LABELS = pa.schema(
    [
        ("example_id", pa.string()),
        ("system", pa.int8()),
        ("votes_for", pa.int16()),
        ("votes_against", pa.int16()),
        ("abstained", pa.int16()),
        ("agreement", pa.float64()),
    ]
)
Votes = Mapping[str, int | None]
"""Example id -> 1, 2, or None for an abstention: one teacher's."""


@dataclass(frozen=True, slots=True)
class Label:
    """What the votes on one example come to; `system` None is dropped."""

    system: int | None
    votes_for: int
    votes_against: int
    abstained: int

    @property
    def agreement(self) -> float:
        """Share of counted votes that are for the label."""
        return self.votes_for / max(1, self.votes_for + self.votes_against)


def decide(votes: Sequence[int | None], *, tie: str, quorum: int) -> Label:
    """The label of one example.

    >>> decide([1, 2, 2, None], tie="system2", quorum=1)
    Label(system=2, votes_for=2, votes_against=1, abstained=1)
    """
    ones, twos, abstained = votes.count(1), votes.count(2), votes.count(None)
    if ones + twos < quorum or ones + twos == 0:
        return Label(None, max(ones, twos), min(ones, twos), abstained)
    if ones == twos:
        return Label({"system1": 1, "system2": 2, "drop": None}[tie], ones, twos, abstained)
    return Label(1 if ones > twos else 2, max(ones, twos), min(ones, twos), abstained)


def calibrated(log_odds: Mapping[str, float], calibration: str) -> tuple[dict[str, int], float]:
    """Labels out of log p(2) - log p(1), and the offset that was taken off (nats)."""
    examples = {e: odds for e, odds in log_odds.items() if e != CONTENT_FREE_ID}
    offset = 0.0
    if calibration == "batch":
        offset = math.fsum(examples.values()) / len(examples)
    elif calibration == "content_free":
        offset = log_odds[CONTENT_FREE_ID]
    return {e: 2 if odds - offset > 0 else 1 for e, odds in examples.items()}, offset


def run(spec: Spec, out: Path) -> None:
    votes: dict[str, Votes] = {}
    teachers: dict[str, dict[str, Any]] = {}
    for name, calibration in spec.config["teachers"].items():
        shards = [spec.inputs[r] for r in sorted(spec.inputs) if r.startswith(f"votes/{name}/")]
        votes[name], offset = _teacher_votes(shards, calibration)
        teachers[name] = _describe_teacher(votes[name], calibration, offset)
    ids = sorted({example_id for teacher in votes.values() for example_id in teacher})
    rule = {"tie": spec.config["tie"], "quorum": spec.config["quorum"]}
    labels = {i: decide([v.get(i) for v in votes.values()], **rule) for i in ids}
    _write_labels(out / "labels.parquet", labels)
    summary = {
        "counts": _counts(labels),
        "unanimous_share": _share(
            [not label.votes_against for label in labels.values() if label.votes_for]
        ),
        "pairwise_agreement": _pairwise(votes),
        "teachers": teachers,
    }
    (out / "agreement.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")


def _teacher_votes(shards: Sequence[Path], calibration: str) -> tuple[Votes, float]:
    votes: dict[str, int | None] = {}
    log_odds: dict[str, float] = {}
    for shard in shards:
        table = read_table(shard, ["example_id", "label", "logprob_1", "logprob_2"])
        for example_id, label, one, two in zip(*table.values(), strict=True):
            votes[example_id] = label
            if one is not None and two is not None:
                log_odds[example_id] = two - one
    votes.pop(CONTENT_FREE_ID, None)
    if not log_odds:
        return votes, 0.0
    labels, offset = calibrated(log_odds, calibration)
    return {**votes, **labels}, offset


def _describe_teacher(votes: Votes, calibration: str, offset: float) -> dict[str, Any]:
    counted = [vote for vote in votes.values() if vote is not None]
    return {
        "votes": len(counted),
        "abstained": len(votes) - len(counted),
        "system2_share": _share([vote == 2 for vote in counted]),
        "calibration": calibration,
        "offset_nats": round(offset, 6),
    }


def _pairwise(votes: Mapping[str, Votes]) -> dict[str, float | None]:
    """Share of examples on which two teachers who both voted agree."""
    agreement: dict[str, float | None] = {}
    for a, b in combinations(sorted(votes), 2):
        both = [(votes[a][e], votes[b][e]) for e in votes[a].keys() & votes[b].keys()]
        agreement[f"{a} / {b}"] = _share([x == y for x, y in both if x and y])
    return agreement


def _counts(labels: Mapping[str, Label]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int, {"1": 0, "2": 0, "dropped": 0})
    for label in labels.values():
        counts[str(label.system or "dropped")] += 1
    return dict(counts)


def _share(flags: Sequence[bool]) -> float | None:
    return round(sum(flags) / len(flags), 6) if flags else None


def _write_labels(path: Path, labels: Mapping[str, Label]) -> None:
    kept = {example_id: label for example_id, label in labels.items() if label.system}
    columns: dict[str, list[Any]] = {
        name: [getattr(label, name) for label in kept.values()] for name in LABELS.names[1:]
    }
    write_table(path, {"example_id": list(kept), **columns}, LABELS)
