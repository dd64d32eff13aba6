"""Votes become labels: majority, ties, quorum, calibration, and what the teachers agree on."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_inputs import files, run_stage

from lorapar_core.parquet import read_table
from lorapar_core.tally import Label, calibrated, decide
from lorapar_core.teachers.ballot import CONTENT_FREE_ID, Ballot, write_ballots

VOTE = st.sampled_from([1, 2, None])
TIE = st.sampled_from(["system1", "system2", "drop"])
IDS = st.text("abcdef", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("votes", "system", "counts"),
    [
        ([1, 1, 2], 1, (2, 1, 0)),
        ([1, 2, 2], 2, (2, 1, 0)),
        ([2, 2, 2], 2, (3, 0, 0)),
        ([1, None, None], 1, (1, 0, 2)),
        ([None, None], None, (0, 0, 2)),
        ([], None, (0, 0, 0)),
    ],
)
def test_majority(
    votes: list[int | None], system: int | None, counts: tuple[int, int, int]
) -> None:
    assert decide(votes, tie="system2", quorum=1) == Label(system, *counts)


@pytest.mark.parametrize(("tie", "system"), [("system1", 1), ("system2", 2), ("drop", None)])
def test_ties(tie: str, system: int | None) -> None:
    assert decide([1, 2, None], tie=tie, quorum=1) == Label(system, 1, 1, 1)
    assert decide([1, 2], tie=tie, quorum=1).agreement == 0.5


@pytest.mark.parametrize(("quorum", "system"), [(1, 2), (2, 2), (3, None)])
def test_quorum_counts_votes_without_abstentions(quorum: int, system: int | None) -> None:
    assert decide([2, 2, None, None], tie="system2", quorum=quorum).system == system


@given(st.lists(VOTE, max_size=9), TIE, st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_order_of_votes_decides_nothing(
    votes: list[int | None], tie: str, quorum: int, source: random.Random
) -> None:
    label = decide(votes, tie=tie, quorum=quorum)
    shuffled = list(votes)
    source.shuffle(shuffled)
    assert decide(shuffled, tie=tie, quorum=quorum) == label
    assert label.votes_for >= label.votes_against
    assert label.votes_for + label.votes_against + label.abstained == len(votes)
    if label.system:
        assert label.votes_for + label.votes_against >= quorum
        assert votes.count(label.system) == label.votes_for
    # Systems are treated alike: with all votes turned round, so is the label.
    turned = [vote and 3 - vote for vote in votes]
    other = {"system1": "system2", "system2": "system1", "drop": "drop"}[tie]
    assert decide(turned, tie=other, quorum=quorum).system == (label.system and 3 - label.system)


LOG_ODDS = st.dictionaries(
    IDS, st.integers(-4000, 4000).map(lambda n: n / 64), min_size=1, max_size=20
)


@given(LOG_ODDS)
def test_batch_calibration_leaves_both_labels_occupied(log_odds: dict[str, float]) -> None:
    labels, offset = calibrated(log_odds, "batch")
    assert labels.keys() == log_odds.keys()
    assert math.isclose(offset, sum(log_odds.values()) / len(log_odds), abs_tol=1e-9)
    if len(set(log_odds.values())) > 1:
        assert set(labels.values()) == {1, 2}
        assert labels[max(log_odds, key=lambda e: log_odds[e])] == 2
        assert labels[min(log_odds, key=lambda e: log_odds[e])] == 1


@given(LOG_ODDS, st.integers(-4000, 4000).map(lambda n: n / 64))
def test_content_free_calibration(log_odds: dict[str, float], empty: float) -> None:
    labels, offset = calibrated({**log_odds, CONTENT_FREE_ID: empty}, "content_free")
    assert offset == empty
    assert labels == {e: 2 if odds > empty else 1 for e, odds in log_odds.items()}


def test_no_calibration_and_the_content_free_example_has_no_say() -> None:
    log_odds = {"a": -0.5, "b": 0.25, "c": 0.0, CONTENT_FREE_ID: 100.0}
    assert calibrated(log_odds, "none") == ({"a": 1, "b": 2, "c": 1}, 0.0)
    assert calibrated(log_odds, "batch") == ({"a": 1, "b": 2, "c": 2}, -0.25 / 3)


def ballots(votes: Mapping[str, int | None]) -> list[Ballot]:
    return [Ballot(e, v, f"System {v}", "m") for e, v in votes.items()]


def scored(log_odds: Mapping[str, float]) -> list[Ballot]:
    """Ballots of a local teacher, whose own labels say the contrary of its log-odds."""
    return [
        Ballot(e, 1 if odds > 0 else 2, "", "m", logprob_1=-3.0, logprob_2=-3.0 + odds)
        for e, odds in log_odds.items()
    ]


def tally(
    root: Path, shards: Mapping[str, Sequence[Sequence[Ballot]]], **config: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Labels by id, agreement.json, and the bytes of both files."""
    inputs = {}
    for teacher, parts in shards.items():
        for k, part in enumerate(parts):
            folder = root / "votes" / teacher / str(k)
            folder.mkdir(parents=True)
            write_ballots(folder, part, teacher=teacher)
            inputs[f"votes/{teacher}/{k:06}"] = folder / "votes.parquet"
    rules = {"teachers": dict.fromkeys(shards, "none"), "tie": "system2", "quorum": 1, **config}
    out = run_stage("tally", rules, inputs, root / "out")
    table = read_table(out / "labels.parquet")
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    agreement = json.loads((out / "agreement.json").read_text())
    return {row["example_id"]: row for row in rows}, agreement, files(out)


def test_the_stage(tmp_path: Path) -> None:
    votes: dict[str, list[list[Ballot]]] = {
        "a": [ballots({"e1": 1, "e2": 2}), ballots({"e3": 1, "e4": None})],
        "b": [ballots({"e1": 1, "e2": 2, "e3": 2, "e4": None})],
        "c": [scored({"e1": -1.0, "e2": 3.0, "e3": 1.0, "e4": 0.5, CONTENT_FREE_ID: 0.75})],
    }
    calibration = {"a": "none", "b": "none", "c": "content_free"}
    labels, agreement, _ = tally(tmp_path, votes, teachers=calibration)
    assert {i: row["system"] for i, row in labels.items()} == {"e1": 1, "e2": 2, "e3": 2, "e4": 1}
    assert list(labels) == sorted(labels)
    e3, e4 = labels["e3"], labels["e4"]
    assert (e3["votes_for"], e3["votes_against"], e3["agreement"]) == (2, 1, 2 / 3)
    assert (e4["votes_for"], e4["votes_against"], e4["abstained"]) == (1, 0, 2)
    assert agreement["counts"] == {"1": 2, "2": 2, "dropped": 0}
    assert agreement["unanimous_share"] == 0.75
    assert agreement["pairwise_agreement"] == {
        "a / b": 0.666667,  # of the three on which both voted
        "a / c": 0.666667,
        "b / c": 1.0,
    }
    assert agreement["teachers"] == {
        "a": described(3, 1, 0.333333, "none", 0.0),
        "b": described(3, 1, 0.666667, "none", 0.0),
        "c": described(4, 0, 0.5, "content_free", 0.75),
    }


def described(
    votes: int, abstained: int, share: float, calibration: str, offset: float
) -> dict[str, Any]:
    return {
        "votes": votes,
        "abstained": abstained,
        "system2_share": share,
        "calibration": calibration,
        "offset_nats": offset,
    }


def test_dropped_examples_get_no_label_and_are_counted(tmp_path: Path) -> None:
    votes = {
        "a": [ballots({"e1": 1, "e2": None, "e3": 1})],
        "b": [ballots({"e1": 2, "e2": None, "e3": 1})],
    }
    labels, agreement, _ = tally(tmp_path, votes, tie="drop", quorum=2)
    assert list(labels) == ["e3"]
    assert agreement["counts"] == {"1": 1, "2": 0, "dropped": 2}
    # An example that nobody voted on is none that they agree on.
    assert agreement["unanimous_share"] == 0.5


def test_nobody_votes(tmp_path: Path) -> None:
    labels, agreement, _ = tally(tmp_path, {"a": [ballots({"e1": None, "e2": None})]})
    assert labels == {}
    assert agreement["counts"] == {"1": 0, "2": 0, "dropped": 2}
    assert agreement["unanimous_share"] is None
    assert agreement["teachers"]["a"]["system2_share"] is None


@pytest.mark.parametrize("seed", range(3))
def test_neither_file_order_nor_shards_decide_anything(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    ids = [f"e{k:02}" for k in range(30)]
    remote = ballots({i: source.choice([1, 2, None]) for i in ids})
    local = scored({i: source.gauss(3, 1) for i in ids})
    calibration = {"far": "none", "near": "batch"}
    whole = {"far": [remote], "near": [local]}
    labels, _, first = tally(tmp_path / "one", whole, teachers=calibration)
    assert len(labels) == 30
    source.shuffle(remote)
    source.shuffle(local)
    parts = {"near": [local[20:], local[:20]], "far": [remote[:7], remote[7:9], remote[9:]]}
    _, _, second = tally(tmp_path / "two", parts, teachers=dict(reversed(calibration.items())))
    assert first == second
