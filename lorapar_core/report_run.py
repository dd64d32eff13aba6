"""The part of a run's page that its report can't hold: what the run took, and its command.

The report is an artifact: the same inputs give the same bytes, so no time, no memory and no dollar
stands in it. It leaves a place for them, and `with_run` fills it in the copy that people open.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.report_block import Block, Html
from lorapar_core.report_page import filled

SLOT = "run"
TITLE = "What it took"
_ABSENT = (
    "Times, memory and costs differ from run to run, so they are in no artifact: `lorapar run`, "
    "`lorapar sweep` and the Prefect flows write them here, into the page in the store's folder "
    "`runs`."
)
Taken = Mapping[str, Any]


def place_for_run() -> Block:
    """What stands there until a run fills it in."""
    return Block(TITLE, _ABSENT, slot=SLOT)


def with_run(page: str, taken: Taken, *, command: str) -> str:
    """The page with what the run took.

    `taken`: `stages`, `votes`, `machines`, `commits` and `artifacts`, as `flows.footprint` tells
    them.
    """
    return filled(page, SLOT, run_blocks(taken, command=command))


def run_blocks(taken: Taken, *, command: str) -> list[Block]:
    """Stages, votes, how to make it again, and every digest."""
    return [
        *_stages(taken["stages"]),
        *_votes(taken["votes"]),
        again(taken, command),
        _artifacts(taken["artifacts"]),
    ]


def _stages(stages: Sequence[Taken]) -> list[Block]:
    gpu = any(stage.get("peak_gpu_bytes") for stage in stages)
    rows = [
        [
            stage["name"],
            stage["action"] + (f", went on {n} times" if (n := stage["went_on"]) else ""),
            or_dash(stage.get("seconds"), "{:,.1f}"),
            or_dash(stage.get("tokens_per_second"), "{:,.0f}"),
            mebibytes(stage.get("peak_bytes")),
            *([mebibytes(stage.get("peak_gpu_bytes"))] if gpu else []),
            active(stage),
            mebibytes(stage.get("optimizer_bytes"), digits=2),
            mebibytes(8 * stage["elements"] if "elements" in stage else None, digits=2),
        ]
        for stage in stages
    ]
    header = [
        *("stage", "", "seconds", "tokens/s", "peak MiB"),
        *(["GPU peak MiB"] if gpu else []),
        *("active elements", "optimizer MiB", "if all were active"),
    ]
    words = (
        "A cached stage is told with what it took when it was computed. Seconds are those of its "
        "process since it last began; tokens a second (of prompts and completions) are the mean of "
        "the steps; the peak is that of the largest process, libraries and base model included. "
        "The optimizer's bytes are those of its state; beside them, what AdamW's two moments of "
        "all elements would take."
    )
    return [Block(TITLE, words, header, rows)]


def active(stage: Taken) -> str:
    """How many elements train, and their share."""
    if "active_elements" not in stage:
        return "–"
    active, elements = stage["active_elements"], stage["elements"]
    return f"{active:,.0f} ({100 * active / elements:.1f} %)"


def _votes(votes: Sequence[Taken]) -> list[Block]:
    if not votes:
        return []
    rows = [
        [
            vote["teacher"],
            f"{vote['votes']:,}",
            f"{vote['requests']:,}",
            f"{vote['prompt_tokens']:,}",
            f"{vote['completion_tokens']:,}",
            _dollars(vote),
        ]
        for vote in votes
    ]
    total = sum(vote["usd"] for vote in votes)
    unpriced = sum(vote["unpriced"] for vote in votes)
    words = f"{sum(vote['votes'] for vote in votes):,} votes came from requests, for ${total:.4f}"
    words += (
        f" and whatever {unpriced:,} requests cost whose price nobody knows." if unpriced else "."
    )
    words += " Each is in the store's ledger: it is paid for once, whichever run asks."
    header = ["teacher", "votes", "requests", "prompt tokens", "completion tokens", "dollars"]
    return [Block("What the votes cost", words, header, rows, under=True)]


def _dollars(vote: Taken) -> str:
    if vote["unpriced"] == vote["requests"]:
        return "unknown"
    return f"{'at least ' if vote['unpriced'] else ''}{vote['usd']:.4f}"


def again(taken: Taken, command: str) -> Block:
    """The command, and the commits, machines and libraries that the records name."""
    said = []
    if command:
        said.append(_code(command))
    rows = [["commit", commit] for commit in taken["commits"]]
    for machine in taken["machines"]:
        libraries = ", ".join(f"{k} {v}" for k, v in machine.get("libraries", {}).items())
        hardware = "; ".join(
            f"{name} {value}" if name not in ("processor", "gpu", "platform") else str(value)
            for name, value in machine.items()
            if name != "libraries"
        )
        rows.append(["machine", hardware])
        rows.append(["libraries", libraries])
    words = "The same command makes this page again, or, from the same store, shows it at once."
    if any(word.endswith((".yaml", ".yml")) for word in shlex.split(command)[2:4]):
        words += " Its recipe is a file of whoever ran it; all its fields stand under Recipe."
    return Block("Again", words if command else "", ["", ""], rows, said, under=True)


def _artifacts(artifacts: Mapping[str, str]) -> Block:
    rows = [[name, digest] for name, digest in artifacts.items()]
    words = "By stage and role. Logs (`vote_log`, `metrics`) hold times and differ from run to run."
    return Block("Every artifact", words if rows else "", ["artifact", "sha256"], rows, under=True)


def _code(text: str) -> Html:
    return Html(f'<pre class="wide"><code>{html.escape(text)}</code></pre>')


def mebibytes(count: float | None, *, digits: int = 0) -> str:
    return "–" if count is None else f"{count / 2**20:,.{digits}f}"


def or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
