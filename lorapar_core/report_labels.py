"""The report's part on labels: how many of each system, and who voted how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.report_block import Block, percent
from lorapar_core.report_trust import trust_blocks


def label_blocks(
    recipe: Mapping[str, Any], agreement: Mapping[str, Any], data: Mapping[str, Any]
) -> list[Block]:
    """`agreement.json` and the data's `summary.json`, beside the recipe that led to them."""
    counts, voting = agreement["counts"], recipe["voting"]
    of_sample = " of a random tenth" if agreement["curtailed"] else ""
    words = [
        f"{data['train']} training examples ({data['duplicates']} duplicates dropped): "
        f"{counts['1']} System 1, {counts['2']} System 2, {counts['dropped']} without a label. "
        f"All counted votes agree on {percent(agreement['unanimous_share'])}{of_sample}."
    ]
    if voting["labels"] == "random":
        words.append("The labels are a control: as many of each system, dealt at random.")
    overdue = sum(t["abstained_because"].get("deadline", 0) for t in agreement["teachers"].values())
    if overdue:
        words.append(
            f"{overdue} votes ended at their deadline; voting.again: 1 asks for them again."
        )
    if agreement["curtailed"]:
        words.append(
            f"Voting was curtailed: {agreement['votes']} votes instead of "
            f"{agreement['votes_if_full']}, for the same labels. The share of System 2 is that of "
            "the random tenth."
        )
    teachers = recipe["teachers"]
    local = [t for t in teachers if t["provider"] == "local" and t["name"] in agreement["teachers"]]
    if local:
        words.append(_local_warning(local, len(agreement["teachers"])))
    rows = [
        [
            name if name != agreement["judge"] else f"{name} (of ties)",
            str(teacher["votes"]),
            _abstained(teacher),
            percent(teacher["system2_share"]),
            teacher["calibration"],
            f"{teacher['offset_nats']:+.2f}",
        ]
        for name, teacher in agreement["teachers"].items()
    ]
    header = ["teacher", "votes", "abstained", "System 2", "calibration", "offset (nats)"]
    return [Block("Labels", " ".join(words), header, rows), *trust_blocks(agreement)]


def _abstained(teacher: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{count} {why}" for why, count in teacher["abstained_because"].items())
    return f"{teacher['abstained']} ({reasons})" if reasons else str(teacher["abstained"])


def _local_warning(local: Sequence[Mapping[str, Any]], count: int) -> str:
    models = [teacher["model"] for teacher in local]
    shared = max(models.count(model) for model in models)
    weak = "its votes are" if len(local) == 1 else "their votes are"
    same = (
        f" {shared} of them share one model and differ in wording only, so they are not "
        "independent."
        if shared > 1
        else ""
    )
    return (
        f"{len(local)} of the {count} teachers run locally on small or similar models: {weak} weak "
        f"evidence.{same} Read these labels as a demonstration; for results, ask stronger teachers "
        "of different families."
    )
