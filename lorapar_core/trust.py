"""How far the labels can be trusted: what `agreement.json` says.

Figures of agreement are over examples that every teacher was asked about: all of them, or with
curtailed voting the random tenth (`rounds`). Counts and the most divided examples are over all.
What others wrote (prompts, replies) is cut and otherwise as it came: whoever shows it escapes it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorapar_core.agreement import (
    alpha_interval,
    effective_teachers,
    fleiss_kappa,
    krippendorff_alpha,
    most_divided,
    pairs,
    raw_agreement,
    vote_correlation,
)
from lorapar_core.dawid_skene import dawid_skene, likelier
from lorapar_core.rounds import Votes
from lorapar_core.rule import Label
from lorapar_core.teachers.suspicion import signs

DIGITS = 6
DIVIDED = 20
"""Examples to look at."""
FLAGGED = 100
LONGEST_TEXT = 400
"""Characters of a prompt, an answer or a reply that are told."""
ALIKE, LEAST_PHI, LEAST_BOTH = 0.25, 0.5, 100
"""A pair counts as alike whose phi is so far above the pairs' median, and high by itself, over so
many examples: two that copy each other look as if each proved the other right, to Dawid and Skene's
model above all. Over fewer examples chance does it."""
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """Who voted what."""

    votes: Mapping[str, Votes]
    """Teacher of the panel -> its votes."""
    judged: Mapping[str, Votes]
    """The judge, if there is one -> its votes."""
    offsets: Mapping[str, float]
    calibrations: Mapping[str, str]
    replies: Mapping[str, Mapping[str, str]]
    reasons: Mapping[str, Mapping[str, str]]
    """Teacher -> example -> why it abstained."""
    sample: Sequence[str]
    """Examples that every teacher of the panel was asked about, drawn without a look at votes."""
    curtailed: bool


def trust(
    panel: Panel, labels: Mapping[str, Label], examples: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The document. `examples`: columns id, prompt, answer."""
    table = ballots(panel.sample, panel.votes)
    return {
        "counts": _counts(labels),
        "unanimous_share": _share(
            [not labels[i].votes_against for i in panel.sample if labels[i].votes_for]
        ),
        "curtailed": panel.curtailed,
        "votes": sum(len(given) for given in panel.votes.values()),
        "votes_if_full": len(labels) * len(panel.votes),
        "teachers": {name: _teacher(panel, name) for name in (*panel.votes, *panel.judged)},
        "judge": next(iter(panel.judged), None),
        "sample": len(panel.sample),
        "raw_agreement": _rounded(raw_agreement(table)),
        "fleiss_kappa": _fleiss(table),
        "krippendorff_alpha": _alpha(table),
        "vote_correlation": _rounded(vote_correlation(table)),
        "effective_teachers": _rounded(effective_teachers(table)),
        **_pairs(list(panel.votes), table),
        "dawid_skene": _dawid_skene(panel, table, labels),
        "divided": _divided(panel, examples),
        **_flagged(examples),
    }


def ballots(ids: Sequence[str], votes: Mapping[str, Votes]) -> np.ndarray:
    """Votes as int8, shape (examples, teachers): 1, 2, or 0 where there is none."""
    rows = [[given.get(i) or 0 for given in votes.values()] for i in ids]
    return np.array(rows, dtype=np.int8).reshape(len(ids), len(votes))


def _counts(labels: Mapping[str, Label]) -> dict[str, int]:
    found = Counter(str(label.system or "dropped") for label in labels.values())
    return {name: found[name] for name in ("1", "2", "dropped")}


def _teacher(panel: Panel, name: str) -> dict[str, Any]:
    given = {**panel.votes, **panel.judged}[name]
    sample = given if name in panel.judged else {i: given[i] for i in panel.sample if i in given}
    counted = [vote for vote in sample.values() if vote is not None]
    return {
        "votes": sum(vote is not None for vote in given.values()),
        "abstained": sum(vote is None for vote in given.values()),
        "abstained_because": dict(sorted(Counter(panel.reasons[name].values()).items())),
        "system2_share": _share([vote == 2 for vote in counted]),
        "calibration": panel.calibrations[name],
        "offset_nats": round(panel.offsets[name], DIGITS),
    }


def _fleiss(table: np.ndarray) -> dict[str, Any]:
    found = fleiss_kappa(table)
    return {"kappa": _rounded(found.kappa), "examples": found.rows}


def _alpha(table: np.ndarray) -> dict[str, Any]:
    interval = alpha_interval(table, seed=BOOTSTRAP_SEED)
    return {
        "alpha": _rounded(krippendorff_alpha(table)),
        "low": _rounded(interval.low) if interval else None,
        "high": _rounded(interval.high) if interval else None,
    }


def _pairs(names: Sequence[str], table: np.ndarray) -> dict[str, Any]:
    """Every pair, and those whose votes go together far more than the others'."""
    found = pairs(table)
    phis = [pair.phi for pair in found if pair.phi is not None]
    usual = statistics.median(phis) if len(phis) > 2 else None
    alike = [
        [names[pair.first], names[pair.second]]
        for pair in found
        if usual is not None
        and pair.both >= LEAST_BOTH
        and (pair.phi or 0.0) > max(usual + ALIKE, LEAST_PHI)
    ]
    told = [
        {
            "teachers": [names[pair.first], names[pair.second]],
            "both": pair.both,
            "agreement": _rounded(pair.share),
            "kappa": _rounded(pair.kappa),
            "phi": _rounded(pair.phi),
        }
        for pair in found
    ]
    return {"pairs": told, "alike": alike}


def _dawid_skene(panel: Panel, table: np.ndarray, labels: Mapping[str, Label]) -> dict[str, Any]:
    """What the labels of the sample would be under that model."""
    found = dawid_skene(table)
    rows = np.flatnonzero(table.any(axis=1)).tolist()
    likely = {panel.sample[row]: likelier(found.posterior[row]) for row in rows}
    systems = {i: system or labels[i].system for i, system in likely.items()}
    counts = Counter(systems.values())
    return {
        "examples": len(systems),
        "counts": {"1": counts[1], "2": counts[2]},
        "differ": sum(labels[i].system not in (None, system) for i, system in systems.items()),
        "converged": bool(found.converged),
        "right_share": {
            name: {
                str(system): _rounded(float(found.confusions[k, system - 1, system - 1]))
                for system in (1, 2)
            }
            for k, name in enumerate(panel.votes)
        },
    }


def _divided(panel: Panel, examples: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The examples that divide teachers most, with who said what."""
    ids = examples["id"]
    rows = most_divided(ballots(ids, panel.votes), DIVIDED).tolist()
    return [
        {
            "example_id": ids[row],
            "prompt": _cut(examples["prompt"][row]),
            "answer": _cut(examples["answer"][row]),
            "votes": {
                name: {"vote": given[ids[row]], "reply": _cut(panel.replies[name][ids[row]])}
                for name, given in panel.votes.items()
                if ids[row] in given
            },
        }
        for row in rows
    ]


def _flagged(examples: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Examples that read as if they spoke to the teachers; their votes may be what they ask for."""
    rows = zip(examples["id"], examples["prompt"], examples["answer"], strict=True)
    found = [
        {"example_id": i, "prompt": _cut(prompt), "answer": _cut(answer), "signs": list(shown)}
        for i, prompt, answer in rows
        if (shown := signs(f"{prompt}\n{answer}"))
    ]
    return {"flagged": len(found), "flagged_examples": found[:FLAGGED]}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _share(flags: Sequence[bool]) -> float | None:
    return round(sum(flags) / len(flags), DIGITS) if flags else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)
