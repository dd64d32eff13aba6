"""The part of a sweep's page that no artifact can hold: what it took, and its command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.report_block import Block
from lorapar_core.report_page import filled
from lorapar_core.report_run import SLOT, TITLE, active, again, mebibytes, or_dash

Taken = Mapping[str, Any]


def with_sweep(page: str, taken: Taken, *, command: str) -> str:
    """The page with what the sweep took.

    `taken`: `training`, `stages`, `machines`, `commits`, `recipe`, `reports` and `artifacts`, as
    `flows.sweep_footprint` tells them.
    """
    return filled(page, SLOT, sweep_blocks(taken, command=command))


def sweep_blocks(taken: Taken, *, command: str) -> list[Block]:
    """What training took at each point, what all stages took, how to make it again, where each
    trial's own page is, and what the trials have made."""
    return [
        _training(taken["training"]),
        _stages(taken["stages"]),
        again(taken, command),
        *_recipe(taken["recipe"]),
        _reports(taken["reports"]),
        _artifacts(taken["artifacts"]),
    ]


def _training(trained: Sequence[Taken]) -> Block:
    gpu = any(each.get("peak_gpu_bytes") for each in trained)
    rows = [
        [
            each["point"],
            each["stage"] + (f", {n} went on" if (n := each["went_on"]) else ""),
            str(each["trials"]),
            or_dash(each.get("seconds"), "{:,.1f}"),
            or_dash(each.get("tokens_per_second"), "{:,.0f}"),
            mebibytes(each.get("peak_bytes")),
            *([mebibytes(each.get("peak_gpu_bytes"))] if gpu else []),
            active(each),
            mebibytes(each.get("optimizer_bytes"), digits=2),
        ]
        for each in trained
    ]
    header = [
        *("point", "stage", "trials", "seconds", "tokens/s", "peak MiB"),
        *(["GPU peak MiB"] if gpu else []),
        *("active elements", "optimizer MiB"),
    ]
    words = (
        "A training stage's mean over its trials, whenever they were computed; of peaks the "
        "highest, of the largest process. Seconds are those of a process since it last began: of "
        "trials that went on after a stop the last part. Trials side by side slow each other."
    )
    return Block(TITLE, words, header, rows)


def _stages(stages: Sequence[Taken]) -> Block:
    rows = [
        [
            each["stage"],
            f"{each['asked']:,}",
            f"{each['computed']:,}",
            or_dash(each["seconds"], "{:,.1f}"),
            mebibytes(each["peak_bytes"]),
        ]
        for each in stages
    ]
    words = (
        "What trials have in common is computed once. Asked for: by how many of them, all stages "
        "of the name together; computed: how many different ones there are. The peak is that of "
        "the largest process."
    )
    header = ["stage", "asked for", "computed", "seconds in all", "peak MiB"]
    return Block("Stages of all trials", words, header, rows, under=True)


def _recipe(recipe: Mapping[str, Any]) -> list[Block]:
    if not recipe:
        return []
    sections = recipe["sections"].items()
    rows = [[section, json.dumps(value, ensure_ascii=False)] for section, value in sections]
    words = f"That of {recipe['trial']}; others differ in what the sweep moves and in their seeds."
    return [Block("Recipe", words, ["section", "value"], rows, under=True)]


def _reports(reports: Mapping[str, str]) -> Block:
    words = (
        "Each trial's labels, importances, regions and all figures of training are on its own "
        "page; `lorapar artifacts export DIGEST DIR` writes it."
    )
    rows = [[trial, digest] for trial, digest in reports.items()]
    return Block("Every trial's report", words, ["trial", "sha256"], rows, under=True)


def _artifacts(artifacts: Sequence[Sequence[str]]) -> Block:
    words = "Of all trials, each once: with the first that asks for it, by stage and role."
    header = ["trial", "artifact", "sha256"]
    return Block("Every artifact", words, header, artifacts, under=True, folded=True)
