"""`make lab`: every sweep on the lab's model, with what became of the paper's claims on one page.

    python -m deployments.lab.results [--store STORE]

Writes `RESULTS.md` beside this file, and the same with charts as `RESULTS.html`. Both say nothing
of time and place: who runs it again on a machine that rounds alike gets the same bytes. What is in
the store already is not computed again, and a cut run goes on; nothing is written until all trials
are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifacts import Store, StoreError
from artifacts.durable import write_whole
from flows.command import sweep_command
from flows.ending import ending_in_order
from flows.local import say_on_stderr
from flows.local_sweep import run_sweep, with_runtime
from flows.sweep_summary import failed_line
from flows.sweeps import SWEEPS, sweep_named, trials
from lorapar_core.errors import LoraparError, StageFailed
from lorapar_core.report_block import Block, Row
from lorapar_core.report_page import as_html, as_markdown
from lorapar_core.sweep_page import SAID, blocks

RECIPE = "lab"
SEEDS = tuple(range(10, 18))
DATA = {"data": {"seed": 10}}
"""Neither these problems nor these seeds are among those that the recipe was made on."""
HERE = Path(__file__).parent
VERDICTS = ("holds", "fails", "open", "unmeasured")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        with ending_in_order():
            return _run(options)
    except (LoraparError, StoreError, OSError) as error:
        print(f"lorapar: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__.partition("\n")[0])
    parser.add_argument("--store", help="where artifacts are kept (default: $LORAPAR_STORE)")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results are written")
    return parser


def _run(options: argparse.Namespace) -> int:
    store = Store.open(options.store)
    found: dict[str, dict[str, Any]] = {}
    failed = []
    for name in SWEEPS:
        began = time.monotonic()
        try:
            found[name] = _swept(name, store)
            failed += filter(None, [failed_line(found[name])])
        except StageFailed as error:  # the next sweep may do
            failed.append(f"{name}: {error}")
        told = {"sweep": name, "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps(told), flush=True)
    for line in failed:
        print(f"lorapar: {line}; the same command goes on", file=sys.stderr)
    if failed:
        return 1
    page = results_page(found)
    title = "LoRA-PAR in the lab: the paper's claims at a small size"
    for file, text in (
        ("RESULTS.md", as_markdown(title, page)),
        ("RESULTS.html", as_html(title, page)),
    ):
        write_whole(options.out / file, text.encode(), tmp=options.out)
        print(options.out / file)
    return 0


def _swept(name: str, store: Store) -> dict[str, Any]:
    sweep = sweep_named(name)
    swept = trials(sweep, RECIPE, seeds=SEEDS, overrides=with_runtime(DATA))
    command = sweep_command(name, RECIPE, DATA, seeds=SEEDS, only=[])
    return run_sweep(sweep, swept, store=store, say=say_on_stderr, command=command)


def results_page(found: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """The page's parts: the verdicts of all sweeps, then each with its tables. `found`: sweep ->
    its summary."""
    page = [_verdicts(found)]
    for name, summary in found.items():
        summed, *rest = blocks(summary["results"], {})
        words = f"{summed.words} Made by `{summary['command']}`."
        page.append(replace(summed, title=f"{name}: {SWEEPS[name].summary}", words=words))
        told = [part for part in rest if part.title != "Artifacts" and not part.slot]
        page += [replace(part, under=True) for part in told]
    return [*page, _digests(found)]


def _verdicts(found: Mapping[str, Mapping[str, Any]]) -> Block:
    claims = [(name, c) for name, s in found.items() for c in s["results"]["claims"]]
    counts = {v: sum(c["verdict"] == v for _, c in claims) for v in VERDICTS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    decided = [c for _, c in claims if c["verdict"] in ("holds", "fails") and c["paper"]]
    agree = sum((c["paper"] > 0) == (c["verdict"] == "holds") for c in decided)
    words = (
        f"{len(claims)} claims: {said}. Of those that hold or fail the paper has a figure of "
        f"{len(decided)}, with the same sign for {agree}. A model of less than a million "
        "parameters, trained on sums (deployments/lab), is fine-tuned to answer questions that it "
        "has never seen: this says nothing of 7B models. The recipe was made on other problems "
        "and other seeds. `labels`: on true System-1 examples alone this model learns to stop "
        "after one step, and labels that are wrong keep it from that, so this doesn't say that "
        "better labels are worse. Teachers are scripts; that without a part to play they err half "
        "as often again is assumed, so `one teacher above one teacher, no role play` tells what "
        "those errors do, and nothing of role play. `order`: before SFT no completion is right, so "
        "RL first teaches nothing, and RL then SFT is SFT. `baselines`: LoRA, OLoRA and PiSSA have "
        "the recipe's learning rate, which was chosen for LoRA-PAR; prompt tuning, P-tuning, "
        "prefix tuning and IA3 have rates of their own, as everywhere. Differences are in "
        "percentage points of strict accuracy, paired by seed and problem, with intervals that are "
        "corrected for the claims of a sweep (Holm). Paper: the same difference there. Made by "
        "`make lab`."
    )
    return Block("Verdicts", words, _HEADER, [_verdict(name, claim) for name, claim in claims])


_HEADER = ("sweep", "claim", "difference", "verdict", "paper")


def _verdict(sweep: str, claim: Mapping[str, Any]) -> Row:
    paper = "" if claim["paper"] is None else f"{100 * claim['paper']:+.2f}"
    if claim["verdict"] == "unmeasured":
        return [sweep, claim["text"], "", SAID["unmeasured"], paper]
    difference, low, high = (100 * claim[name] for name in ("estimate", "low", "high"))
    shown = f"{difference:+.2f} ({low:+.2f} to {high:+.2f})"
    return [sweep, claim["text"], shown, claim["verdict"], paper]


def _digests(found: Mapping[str, Mapping[str, Any]]) -> Block:
    rows = [[role, d] for s in found.values() for role, d in s["artifacts"].items()]
    return Block("Artifacts", "", ["role", "sha256"], rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
