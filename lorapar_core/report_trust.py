"""The report's part on how far the labels can be trusted: `agreement.json` for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorapar_core.report_block import Block, percent


def trust_blocks(agreement: Mapping[str, Any]) -> list[Block]:
    """Where a single teacher voted, there is nobody to agree with."""
    panel = [name for name in agreement["teachers"] if name != agreement["judge"]]
    several = [_figures(agreement), _pairs(agreement), *_divided(agreement)]
    return [*(several if len(panel) > 1 else []), *_flagged(agreement)]


def _figures(agreement: Mapping[str, Any]) -> Block:
    alpha, kappa = agreement["krippendorff_alpha"], agreement["fleiss_kappa"]
    skene = agreement["dawid_skene"]
    words = [f"Over {agreement['sample']} examples that every teacher was asked about"]
    words[0] += (
        ", a random tenth: what the others were asked depends on how they were answered."
        if agreement["curtailed"]
        else "."
    )
    words.append(
        "Alpha and kappa are 0 where teachers agree as chance would have it, 1 where they agree "
        "fully. The effective number is that of uncorrelated teachers with as much to say; being "
        "right together lowers it as copying does, so it is low for good teachers too."
    )
    rows = [
        ["votes that are alike, two by two", percent(agreement["raw_agreement"])],
        [
            "Krippendorff's alpha (95 % interval)",
            f"{_number(alpha['alpha'])} ({_number(alpha['low'])} to {_number(alpha['high'])})",
        ],
        [f"Fleiss' kappa ({kappa['examples']} examples)", _number(kappa["kappa"])],
        ["correlation of votes", _number(agreement["vote_correlation"])],
        ["effective number of teachers", _number(agreement["effective_teachers"])],
        [
            "by Dawid and Skene's model",
            f"{skene['counts']['1']} System 1, {skene['counts']['2']} System 2; "
            f"{skene['differ']} labels would differ"
            + ("" if skene["converged"] else " (not converged)"),
        ],
    ]
    return Block("Agreement", " ".join(words), ["figure", "value"], rows, under=True)


def _pairs(agreement: Mapping[str, Any]) -> Block:
    alike = [" and ".join(pair) for pair in agreement["alike"]]
    words = ""
    if alike:
        words = (
            f"{'; '.join(alike)} vote alike far more than the other pairs: they may be one teacher "
            "twice, and two votes of the majority. Don't use dawid_skene with them."
        )
    rows = [
        [
            " / ".join(pair["teachers"]),
            str(pair["both"]),
            percent(pair["agreement"]),
            _number(pair["kappa"]),
            _number(pair["phi"]),
        ]
        for pair in agreement["pairs"]
    ]
    header = ["teachers", "both voted", "same vote", "Cohen's kappa", "correlation"]
    return Block("Pairs of teachers", words, header, rows, under=True)


def _divided(agreement: Mapping[str, Any]) -> list[Block]:
    rows = [
        [
            row["prompt"],
            row["answer"],
            "; ".join(f"{name}: {_vote(vote)}" for name, vote in row["votes"].items()),
        ]
        for row in agreement["divided"]
    ]
    if not rows:
        return []
    header = ["prompt", "answer", "votes"]
    return [Block("The most divided examples", "", header, rows, under=True)]


def _flagged(agreement: Mapping[str, Any]) -> list[Block]:
    if not agreement["flagged"]:
        return []
    words = (
        f"{agreement['flagged']} examples read as if they spoke to the teachers rather than to the "
        "model (lorapar_core/teachers/suspicion.py has the signs). They are labelled like all "
        "others; look at them, and at where they came from."
    )
    rows = [
        [row["prompt"], row["answer"], ", ".join(row["signs"])]
        for row in agreement["flagged_examples"]
    ]
    return [Block("Suspicious examples", words, ["prompt", "answer", "signs"], rows, under=True)]


def _vote(vote: Mapping[str, Any]) -> str:
    said = f" ({vote['reply']})" if vote["reply"] else ""
    return f"{vote['vote'] or 'none'}{said}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
