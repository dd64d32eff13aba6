"""Votes become labels, and what is told of how far they can be trusted."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_inputs import files, run_stage

from lorapar_core.parquet import read_table, write_table
from lorapar_core.prepare import EXAMPLES
from lorapar_core.rounds import is_audited, next_round
from lorapar_core.rule import Label, Rule
from lorapar_core.tally import labels_by_dawid_skene, labels_by_vote, shuffled
from lorapar_core.teachers.ballot import CONTENT_FREE_ID, Ballot
from lorapar_core.teachers.tables import write_votes
from lorapar_core.trust import DIVIDED, LONGEST_TEXT, ballots

Votes = Mapping[str, int | None]
Rounds = Mapping[str, Sequence[Sequence[Ballot]]]
IDS = [hashlib.sha256(str(k).encode()).hexdigest()[:32] for k in range(200)]


def voted(votes: Votes) -> list[Ballot]:
    return [Ballot(e, v, f"System {v}", "m", "" if v else "off_schema") for e, v in votes.items()]


def scored(log_odds: Mapping[str, float]) -> list[Ballot]:
    """A local teacher's."""
    return [
        Ballot(e, 2 if odds > 0 else 1, "", "m", logprob_1=-3.0, logprob_2=-3.0 + odds)
        for e, odds in log_odds.items()
    ]


def tally(
    root: Path,
    rounds: Rounds,
    *,
    ids: Sequence[str] = (),
    judge: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    **config: Any,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Labels by id, agreement.json, and the bytes of both files."""
    inputs = {}
    for teacher, parts in rounds.items():
        for k, part in enumerate(parts):
            folder = root / "votes" / teacher / str(k)
            folder.mkdir(parents=True)
            write_votes(folder, part, [], teacher=teacher, asked="0")
            inputs[f"votes/{teacher}/{k:06}"] = folder / "votes.parquet"
    told = {b.example_id for parts in rounds.values() for part in parts for b in part}
    ids = ids or sorted(told - {CONTENT_FREE_ID})
    columns: dict[str, list[str]] = {name: list(ids) for name in EXAMPLES.names}
    columns |= {name: [text] * len(ids) for name, text in (texts or {}).items()}
    write_table(root / "examples.parquet", columns, EXAMPLES)
    rules = {
        "teachers": {name: "none" for name in rounds if name not in (judge or {})},
        "judge": judge or {},
        "tie": "system2",
        "quorum": 1,
        "abstentions": "ignore",
        "aggregate": "majority",
        "curtailed": False,
        "labels": "votes",
        **config,
    }
    out = run_stage("tally", rules, {**inputs, "examples": root / "examples.parquet"}, root / "out")
    table = read_table(out / "labels.parquet")
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    agreement = json.loads((out / "agreement.json").read_text())
    return {row["example_id"]: row for row in rows}, agreement, files(out)


def systems(labels: Mapping[str, Any]) -> dict[str, int]:
    return {i: row["system"] for i, row in labels.items()}


# Labels


def test_labels_and_their_votes_stand_in_the_order_of_the_examples(tmp_path: Path) -> None:
    rounds = {
        "a": [voted({"e1": 1, "e2": 2}), voted({"e3": 1, "e4": None})],
        "b": [voted({"e1": 1, "e2": 2, "e3": 2, "e4": None})],
        "c": [scored({"e1": -1.0, "e2": 3.0, "e3": 1.0, "e4": 0.5, CONTENT_FREE_ID: 0.75})],
    }
    calibration = {"a": "none", "b": "none", "c": "content_free"}
    labels, agreement, _ = tally(
        tmp_path, rounds, ids=["e4", "e2", "e1", "e3"], teachers=calibration
    )
    assert systems(labels) == {"e1": 1, "e2": 2, "e3": 2, "e4": 1}
    assert list(labels) == ["e4", "e2", "e1", "e3"]
    e3, e4 = labels["e3"], labels["e4"]
    assert (e3["votes_for"], e3["votes_against"], e3["agreement"]) == (2, 1, 2 / 3)
    assert (e4["votes_for"], e4["votes_against"], e4["abstained"]) == (1, 0, 2)
    assert agreement["counts"] == {"1": 2, "2": 2, "dropped": 0}
    assert agreement["teachers"]["c"]["offset_nats"] == 0.75
    assert agreement["teachers"]["c"]["calibration"] == "content_free"


def test_dropped_examples_get_no_label_and_are_counted(tmp_path: Path) -> None:
    rounds = {
        "a": [voted({"e1": 1, "e2": None, "e3": 1})],
        "b": [voted({"e1": 2, "e2": None, "e3": 1})],
    }
    labels, agreement, _ = tally(tmp_path, rounds, tie="drop", quorum=2)
    assert list(labels) == ["e3"]
    assert agreement["counts"] == {"1": 1, "2": 0, "dropped": 2}
    assert agreement["unanimous_share"] == 0.5, "nobody agrees on what nobody voted on"


def test_the_recipe_s_rule_is_the_one_that_decides(tmp_path: Path) -> None:
    rounds = {"a": [voted({"e1": 1, "e2": 1})], "b": [voted({"e1": 2, "e2": None})]}
    found = {
        name: systems(tally(tmp_path / name, rounds, **how)[0])
        for name, how in {
            "usual": {},
            "system1": {"tie": "system1"},
            "quorum": {"quorum": 2},
            "abstentions": {"abstentions": "drop"},
        }.items()
    }
    assert found == {
        "usual": {"e1": 2, "e2": 1},
        "system1": {"e1": 1, "e2": 1},
        "quorum": {"e1": 2},
        "abstentions": {"e1": 2},
    }


def test_the_judge_decides_ties_and_nothing_else(tmp_path: Path) -> None:
    rounds = {
        "a": [voted({"e1": 1, "e2": 1, "e3": 1})],
        "b": [voted({"e1": 2, "e2": 2, "e3": 1})],
        "z": [voted({"e1": 1, "e2": None, "e3": 2})],
    }
    labels, agreement, _ = tally(tmp_path, rounds, tie="escalate", judge={"z": "none"})
    assert systems(labels) == {"e1": 1, "e3": 1}
    assert labels["e1"]["votes_for"] == labels["e1"]["votes_against"] == 1
    assert agreement["judge"] == "z"
    assert agreement["teachers"]["z"]["votes"] == 2
    assert agreement["teachers"]["z"]["system2_share"] == 0.5
    assert [pair["teachers"] for pair in agreement["pairs"]] == [["a", "b"]]
    assert agreement["votes"] == 6, "the judge's are no votes of the panel"
    assert all(set(row["votes"]) == {"a", "b"} for row in agreement["divided"])


def test_a_judge_that_nobody_had_to_ask_said_nothing(tmp_path: Path) -> None:
    rounds: Rounds = {"a": [voted({"e1": 1})], "b": [voted({"e1": 1})], "z": []}
    labels, agreement, _ = tally(tmp_path, rounds, tie="escalate", judge={"z": "none"})
    assert systems(labels) == {"e1": 1}
    assert agreement["teachers"]["z"] == {
        "votes": 0,
        "abstained": 0,
        "abstained_because": {},
        "system2_share": None,
        "calibration": "none",
        "offset_nats": 0.0,
    }


@pytest.mark.parametrize("seed", range(3))
def test_neither_the_order_in_files_nor_rounds_nor_that_of_teachers_decides_anything(
    tmp_path: Path, seed: int
) -> None:
    """The action's key knows none of them."""
    source = random.Random(seed)
    ids = IDS[:30]
    remote = voted({i: source.choice([1, 2, None]) for i in ids})
    local = scored({i: source.gauss(3, 1) for i in ids})
    third = voted({i: source.choice([1, 2]) for i in ids})
    calibration = {"far": "none", "near": "batch", "third": "none"}
    whole = {"far": [remote], "near": [local], "third": [third]}
    labels, _, first = tally(tmp_path / "one", whole, teachers=calibration)
    assert len(labels) == 30
    source.shuffle(remote)
    source.shuffle(local)
    parts = {
        "third": [third],
        "near": [local[20:], local[:20]],
        "far": [remote[:7], remote[7:9], remote[9:]],
    }
    _, _, second = tally(tmp_path / "two", parts, teachers=dict(reversed(calibration.items())))
    assert first == second


# How far they can be trusted


def test_the_figures_of_a_small_case_are_those_counted_by_hand(tmp_path: Path) -> None:
    """On 1 1 1, 1 1 2, 2 2 2, 2 1 2 two votes are alike in (1 + 1/3 + 1 + 1/3) / 4."""
    rounds = {
        "a": [voted({"e1": 1, "e2": 1, "e3": 2, "e4": 2})],
        "b": [voted({"e1": 1, "e2": 1, "e3": 2, "e4": 1})],
        "c": [voted({"e1": 1, "e2": 2, "e3": 2, "e4": 2})],
    }
    _, found, _ = tally(tmp_path, rounds)
    assert found["raw_agreement"] == pytest.approx(2 / 3, abs=1e-6)
    chance = 0.5  # six votes of twelve for each
    kappa = (2 / 3 - chance) / (1 - chance)
    assert found["fleiss_kappa"] == {"kappa": pytest.approx(kappa, abs=1e-6), "examples": 4}
    alpha = found["krippendorff_alpha"]
    assert alpha["alpha"] == pytest.approx(1 - (1 - kappa) * 11 / 12, abs=1e-6)
    assert -1 <= alpha["low"] < alpha["alpha"] < alpha["high"] <= 1
    assert found["unanimous_share"] == 0.5
    shares = {name: teacher["system2_share"] for name, teacher in found["teachers"].items()}
    assert shares == {"a": 0.5, "b": 0.25, "c": 0.75}
    ab, ac, bc = found["pairs"]
    assert (ab["teachers"], ab["both"], ab["agreement"]) == (["a", "b"], 4, 0.75)
    assert (ac["teachers"], ac["agreement"], ac["kappa"]) == (["a", "c"], 0.75, 0.5)
    assert (bc["agreement"], bc["phi"]) == (0.5, pytest.approx(1 / 3, abs=1e-6))
    phi = (3**-0.5 + 3**-0.5 + 1 / 3) / 3
    assert found["vote_correlation"] == pytest.approx(phi, abs=1e-6)
    assert found["effective_teachers"] == pytest.approx(3 / (1 + 2 * phi), abs=1e-6)
    assert found["alike"] == []
    assert found["dawid_skene"]["counts"] == {"1": 2, "2": 2}
    assert found["dawid_skene"]["differ"] == 0
    assert set(found["dawid_skene"]["right_share"]) == {"a", "b", "c"}
    assert (found["sample"], found["votes"], found["votes_if_full"]) == (4, 12, 12)
    assert [row["example_id"] for row in found["divided"]] == ["e2", "e4"]
    assert found["divided"][0]["votes"]["c"] == {"vote": 2, "reply": "System 2"}


def test_the_most_divided_examples_are_few_and_their_texts_short(tmp_path: Path) -> None:
    ids = IDS[:40]
    long = "x" * (LONGEST_TEXT + 100)
    replies = [Ballot(i, 2, long, "m") for i in ids]
    rounds = {"a": [voted(dict.fromkeys(ids, 1))], "b": [replies]}
    _, found, _ = tally(tmp_path, rounds, texts={"prompt": long, "answer": "y" * LONGEST_TEXT})
    assert len(found["divided"]) == DIVIDED
    for row in found["divided"]:
        assert row["prompt"] == row["votes"]["b"]["reply"] == long[: LONGEST_TEXT - 1] + "…"
        assert row["answer"] == "y" * LONGEST_TEXT


def test_two_that_copy_each_other_are_named(tmp_path: Path) -> None:
    source = random.Random(0)
    truth = {i: source.choice((1, 2)) for i in IDS}

    def mostly_right() -> dict[str, int]:
        return {i: t if source.random() < 0.8 else 3 - t for i, t in truth.items()}

    original = mostly_right()
    votes = {"a": mostly_right(), "b": original, "c": mostly_right(), "copy": original}
    _, found, _ = tally(tmp_path, {name: [voted(given)] for name, given in votes.items()})
    assert found["alike"] == [["b", "copy"]]


def test_why_teachers_abstain_is_counted(tmp_path: Path) -> None:
    reasons = ["off_schema", "deadline", "refused", "deadline", ""]
    given = [Ballot(f"e{k}", None if why else 1, "", "m", why) for k, why in enumerate(reasons)]
    _, found, _ = tally(tmp_path, {"a": [given[:2], given[2:]]})
    teacher = found["teachers"]["a"]
    assert (teacher["votes"], teacher["abstained"]) == (1, 4)
    assert teacher["abstained_because"] == {"deadline": 2, "off_schema": 1, "refused": 1}


def test_one_teacher_agrees_with_nobody(tmp_path: Path) -> None:
    labels, found, _ = tally(tmp_path, {"a": [voted({"e1": 1, "e2": 2})]})
    assert systems(labels) == {"e1": 1, "e2": 2}
    for figure in ("raw_agreement", "vote_correlation"):
        assert found[figure] is None
    assert found["krippendorff_alpha"] == {"alpha": None, "low": None, "high": None}
    assert found["fleiss_kappa"]["kappa"] is None
    assert found["effective_teachers"] == 1.0
    assert found["pairs"] == found["alike"] == found["divided"] == []


def test_nobody_votes(tmp_path: Path) -> None:
    labels, found, _ = tally(tmp_path, {"a": [voted({"e1": None, "e2": None})]})
    assert labels == {}
    assert found["counts"] == {"1": 0, "2": 0, "dropped": 2}
    assert found["unanimous_share"] is None
    assert found["effective_teachers"] is None
    assert found["teachers"]["a"]["system2_share"] is None
    assert found["dawid_skene"]["examples"] == 0


# Curtailed


def curtailed(
    ids: Sequence[str], full: Mapping[str, Votes], rule: Rule | None = None
) -> dict[str, list[list[Ballot]]]:
    """The rounds that curtailed voting would hold."""
    votes: dict[str, dict[str, int | None]] = {name: {} for name in full}
    rounds: dict[str, list[list[Ballot]]] = {name: [] for name in full}
    while asks := next_round(ids, votes, rule or Rule()):
        for name, asked in asks.items():
            given = {i: full[name][i] for i in asked}
            votes[name] |= given
            rounds[name].append(voted(given))
    return rounds


def random_votes(ids: Sequence[str], names: str, *, seed: int = 0) -> dict[str, Votes]:
    source = random.Random(seed)
    return {name: {i: source.choice((1, 2, 2, 2, None)) for i in ids} for name in names}


def test_curtailed_voting_has_the_same_labels_and_its_figures_are_the_audited_tenth_s(
    tmp_path: Path,
) -> None:
    full = random_votes(IDS, "abcde")
    audited = [i for i in IDS if is_audited(i)]
    assert 10 < len(audited) < 40
    whole, _, _ = tally(tmp_path / "full", {n: [voted(v)] for n, v in full.items()}, ids=IDS)
    rounds = curtailed(IDS, full)
    labels, found, _ = tally(tmp_path / "part", rounds, ids=IDS, curtailed=True)
    only = {n: [voted({i: v[i] for i in audited})] for n, v in full.items()}
    _, tenth, _ = tally(tmp_path / "tenth", only, ids=audited)
    assert systems(labels) == systems(whole)
    assert found["sample"] == len(audited)
    assert found["votes"] == sum(len(r) for parts in rounds.values() for r in parts)
    assert found["votes"] < found["votes_if_full"] == 1000
    for figure in (
        "unanimous_share",
        "raw_agreement",
        "fleiss_kappa",
        "krippendorff_alpha",
        "vote_correlation",
        "effective_teachers",
        "pairs",
        "alike",
        "dawid_skene",
    ):
        assert found[figure] == tenth[figure], figure
    for name in full:
        share = found["teachers"][name]["system2_share"]
        assert share == tenth["teachers"][name]["system2_share"]
        assert found["teachers"][name]["votes"] > tenth["teachers"][name]["votes"]


def test_a_sample_without_examples_says_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    ids = [i for i in IDS if not is_audited(i)][:3]
    rounds = curtailed(ids, {name: dict.fromkeys(ids, 1) for name in "abcde"})
    assert sum(len(part) for parts in rounds.values() for part in parts) == 9
    labels, found, _ = tally(tmp_path, rounds, ids=ids, curtailed=True)
    assert systems(labels) == dict.fromkeys(ids, 1)
    assert (found["sample"], found["unanimous_share"], found["raw_agreement"]) == (0, None, None)
    assert found["dawid_skene"]["counts"] == {"1": 0, "2": 0}
    assert found["counts"] == {"1": 3, "2": 0, "dropped": 0}


# Dawid and Skene's model


def crowd() -> tuple[dict[str, Votes], dict[str, Label]]:
    """Two reliable teachers, and three that mostly vote for System 2 whatever they see."""
    source = random.Random(1)
    truth = {i: source.choice((1, 2)) for i in IDS}
    votes: dict[str, Votes] = {
        name: {i: t if source.random() < 0.97 else 3 - t for i, t in truth.items()} for name in "ab"
    }
    votes |= {name: {i: 2 if source.random() < 0.9 else 1 for i in IDS} for name in "cde"}
    return votes, labels_by_vote(IDS, votes, Rule(), judged={})


def test_dawid_skene_weighs_votes_by_their_teachers_errors(tmp_path: Path) -> None:
    votes, majority = crowd()
    rounds = {name: [voted(given)] for name, given in votes.items()}
    labels, found, _ = tally(tmp_path / "one", rounds, ids=IDS, aggregate="dawid_skene")
    differ = [i for i in IDS if labels[i]["system"] != majority[i].system]
    assert len(differ) > 50
    for i in differ:
        row = labels[i]
        for_it = [given[i] for given in votes.values()].count(row["system"])
        assert (row["votes_for"], row["votes_against"]) == (for_it, 5 - for_it)
    assert found["dawid_skene"]["differ"] == 0
    _, by_majority, _ = tally(tmp_path / "two", rounds, ids=IDS)
    assert by_majority["dawid_skene"]["differ"] == len(differ)
    counts = Counter(str(row["system"]) for row in labels.values())
    assert (
        by_majority["dawid_skene"]["counts"]
        == dict(counts)
        == {k: v for k, v in found["counts"].items() if v}
    )


def test_dawid_skene_labels_nothing_below_the_quorum_and_no_abstained_on_example() -> None:
    votes, _ = crowd()
    for name, given in votes.items():
        votes[name] = {**given, IDS[0]: {"a": 1, "b": 1, "c": 2, "d": 2}.get(name)}
        votes[name] = {**votes[name], IDS[1]: {"a": 1, "b": 1}.get(name)}
    for rule in (Rule("drop", quorum=5), Rule("drop", abstentions="drop")):
        labels = labels_by_vote(IDS, votes, rule, judged={})
        found = labels_by_dawid_skene(labels, votes, rule)
        assert found[IDS[0]].system is found[IDS[1]].system is None
        assert found[IDS[2]].system is not None


def test_dawid_skene_decides_a_tie_that_the_rule_would_drop() -> None:
    votes, _ = crowd()
    for name, given in votes.items():
        votes[name] = {**given, IDS[0]: {"a": 1, "b": 1, "c": 2, "d": 2}.get(name)}
    rule = Rule("drop")
    labels = labels_by_vote(IDS, votes, rule, judged={})
    assert labels[IDS[0]].system is None
    assert labels_by_dawid_skene(labels, votes, rule)[IDS[0]] == Label(1, 2, 2, 1)


@pytest.mark.parametrize(("tie", "system"), [("system1", 1), ("system2", 2), ("drop", None)])
def test_what_is_as_likely_as_not_is_left_to_the_rule(
    tmp_path: Path, tie: str, system: int | None
) -> None:
    """And is told as no difference."""
    votes = {"a": {"x": 1, "y": 2}, "b": {"x": 2, "y": 1}}
    rounds = {name: [voted(given)] for name, given in votes.items()}
    for aggregate in ("majority", "dawid_skene"):
        labels, found, _ = tally(tmp_path / aggregate, rounds, tie=tie, aggregate=aggregate)
        assert systems(labels) == ({"x": system, "y": system} if system else {})
        assert found["dawid_skene"]["differ"] == 0


# Random labels, a control


def test_random_labels_are_as_many_of_each_dealt_by_the_seed(tmp_path: Path) -> None:
    full = random_votes(IDS, "abc")
    rounds = {name: [voted(given)] for name, given in full.items()}
    how: dict[str, Any] = {"ids": IDS, "quorum": 2, "tie": "drop"}
    voted_for, told, _ = tally(tmp_path / "votes", rounds, **how)
    found = {
        name: tally(tmp_path / name, rounds, **how, labels="random", seed=seed)
        for name, seed in (("one", 1), ("again", 1), ("two", 2))
    }
    dealt = {name: systems(labels) for name, (labels, _, _) in found.items()}
    assert found["one"][2] == found["again"][2]
    assert dealt["one"] != dealt["two"]
    assert dealt["one"] != systems(voted_for)
    assert len(voted_for) < len(IDS), "dropped ones are dealt too"
    for labels in dealt.values():
        assert Counter(labels.values()) == Counter(systems(voted_for).values())
    # Told is what the votes say, not how they compare with the deal.
    assert found["one"][1] == told


def test_the_order_of_examples_deals_no_other_labels() -> None:
    labels = {i: Label(1 + k % 2, 1, 0, 0) for k, i in enumerate(IDS)}
    turned = dict(reversed(labels.items()))
    assert shuffled(labels, seed=3) == shuffled(turned, seed=3) != labels
    assert list(shuffled(turned, seed=3)) == list(turned)


def test_ballots_are_a_row_an_example_and_0_where_there_is_no_vote() -> None:
    votes: dict[str, Votes] = {"a": {"x": 1, "y": None}, "b": {"y": 2}}
    assert ballots(["y", "x"], votes).tolist() == [[0, 2], [1, 0]]
    assert ballots([], votes).shape == (0, 2)
