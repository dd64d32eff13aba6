"""Stage `tally`: votes become labels, and it is told how far they can be trusted.

The rule is in `rule`, its alternative in `dawid_skene`; the control `labels: random` deals as many
labels of each system at random. What `agreement.json` says is in `trust`.

config: teachers and judge (name -> calibration), tie, quorum, abstentions, aggregate, curtailed,
labels, and with random labels the seed. Inputs: examples, and votes/TEACHER/ROUND. Writes
`labels.parquet` and `agreement.json`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorapar_core.dawid_skene import dawid_skene, likelier
from lorapar_core.parquet import read_table, write_table
from lorapar_core.rounds import Votes, is_audited, on_example
from lorapar_core.rule import Label, Rule, decide
from lorapar_core.spec import Spec
from lorapar_core.teachers.calibration import labels_of
from lorapar_core.trust import Panel, ballots, trust

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


def run(spec: Spec, out: Path) -> None:
    config = spec.config
    tables = _vote_tables(spec)
    votes: dict[str, Votes] = {}
    offsets: dict[str, float] = {}
    calibrations = {**config["teachers"], **config["judge"]}
    for name, calibration in sorted(calibrations.items()):  # the key knows no order of them
        votes[name], offsets[name] = labels_of(tables[name], calibration)
    judged = {name: votes.pop(name) for name in config["judge"]}
    examples = read_table(spec.inputs["examples"], ["id", "prompt", "answer"])
    rule = Rule(config["tie"], config["quorum"], config["abstentions"])
    labels = labels_by_vote(examples["id"], votes, rule, judged=next(iter(judged.values()), {}))
    if config["aggregate"] == "dawid_skene":
        labels = labels_by_dawid_skene(labels, votes, rule)
    control = config["labels"] == "random"
    dealt = shuffled(labels, seed=config["seed"]) if control else labels
    _write_labels(out / "labels.parquet", dealt)
    panel = Panel(
        votes=votes,
        judged=judged,
        offsets=offsets,
        calibrations=calibrations,
        replies=_told(tables, "reply"),
        reasons=_told(tables, "abstained"),
        sample=[i for i in examples["id"] if not config["curtailed"] or is_audited(i)],
        curtailed=config["curtailed"],
    )
    told = trust(panel, labels, examples)
    (out / "agreement.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


def labels_by_vote(
    ids: Sequence[str], votes: Mapping[str, Votes], rule: Rule, *, judged: Votes
) -> dict[str, Label]:
    """Example id -> its label, by the rule."""
    return {i: decide(on_example(votes, i), rule, judge=judged.get(i)) for i in ids}


def labels_by_dawid_skene(
    labels: Mapping[str, Label], votes: Mapping[str, Votes], rule: Rule
) -> dict[str, Label]:
    """The same labels but for the system, which is the likelier by Dawid and Skene's model; as
    likely as not leaves the rule's. What the rule drops stays dropped, but for a tie.
    """
    ids = list(labels)
    posterior = dawid_skene(ballots(ids, votes)).posterior
    found = {}
    for i, p in zip(ids, posterior, strict=True):
        cast, system = on_example(votes, i), likelier(p)
        dropped = decide(cast, replace(rule, tie="system2")).system is None
        found[i] = labels[i] if dropped or not system else _for(system, labels[i], cast)
    return found


def _for(system: int, label: Label, votes: Sequence[int | None]) -> Label:
    """`label` as one for `system`: with the votes for and against it."""
    votes_for = votes.count(system)
    against = label.votes_for + label.votes_against - votes_for
    return replace(label, system=system, votes_for=votes_for, votes_against=against)


def shuffled(labels: Mapping[str, Label], *, seed: int) -> dict[str, Label]:
    """As many labels of each system, and as many dropped, dealt anew at random."""
    order = sorted(labels)  # by content, so that the order of the examples decides nothing
    systems = [labels[i].system for i in order]
    random.Random(seed).shuffle(systems)
    dealt = dict(zip(order, systems, strict=True))
    return {i: replace(label, system=dealt[i]) for i, label in labels.items()}


def _vote_tables(spec: Spec) -> dict[str, list[dict[str, list[Any]]]]:
    """Teacher -> what its rounds gave; a judge that nobody had to ask gave nothing."""
    names = [*spec.config["teachers"], *spec.config["judge"]]
    return {
        name: [
            read_table(spec.inputs[role])
            for role in sorted(spec.inputs)
            if role.startswith(f"votes/{name}/")
        ]
        for name in names
    }


def _told(
    tables: Mapping[str, Sequence[Mapping[str, Sequence[Any]]]], column: str
) -> dict[str, dict[str, str]]:
    """Teacher -> example id -> what a column says, where it says something."""
    return {
        name: {
            example_id: text
            for table in rounds
            for example_id, text in zip(table["example_id"], table[column], strict=True)
            if text is not None
        }
        for name, rounds in tables.items()
    }


def _write_labels(path: Path, labels: Mapping[str, Label]) -> None:
    kept = {example_id: label for example_id, label in labels.items() if label.system}
    columns: dict[str, list[Any]] = {
        name: [getattr(label, name) for label in kept.values()] for name in LABELS.names[1:]
    }
    write_table(path, {"example_id": list(kept), **columns}, LABELS)
