"""The report's part on accuracy: each stage's, with intervals, and the paper's where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.paper_figures import PaperFigure, paper_accuracy
from lorapar_core.report_block import Block
from lorapar_core.report_charts import Interval, figure, intervals

Metrics = Mapping[str, Any]
WORDS = (
    "Greedy answers to the test problems, with Wilson 95 % intervals. Strict takes the number in "
    "the place that the prompt asks for, flexible the last number."
)
UNTESTED = (
    " A problem that carries tests is not run here and counts as wrong: these figures don't "
    "measure it."
)


def named(after: str) -> str:
    return "before training" if after == "base" else f"after {after}"


def accuracy_blocks(
    recipe: Mapping[str, Any], model: str, evaluations: Sequence[tuple[str, Metrics]]
) -> list[Block]:
    """`evaluations`: the training stage's name, or `base`, and its `metrics.json`, in order."""
    papers = {after: paper_accuracy(recipe, model, after) for after, _ in evaluations}
    shown = any(papers.values())
    rows = [
        [
            named(after),
            str(metrics["n"]),
            *(proportion(metrics[extraction]) for extraction in ("strict", "flexible")),
            f"{metrics['mean_tokens']:.0f}",
            f"{100 * metrics['finished_share']:.0f} %",
            *([_told(papers[after])] if shown else []),
        ]
        for after, metrics in evaluations
    ]
    words = WORDS + (UNTESTED if "tests" in recipe["data"]["columns"] else "")
    header = ["", "problems", "strict", "flexible", "mean tokens", "finished"]
    if shown:
        header.append("in the paper")
    drawn = [_chart(evaluations, papers)] if evaluations else []
    return [Block("Accuracy", words, header, rows, drawn)]


def proportion(figures: Metrics) -> str:
    low, high = figures["interval_95"]
    return f"{100 * figures['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _told(paper: PaperFigure | None) -> str:
    return f"{100 * paper.value:.2f} % ({paper.source})" if paper else ""


def _chart(
    evaluations: Sequence[tuple[str, Metrics]], papers: Mapping[str, PaperFigure | None]
) -> Any:
    rows = []
    for after, metrics in evaluations:
        paper = papers[after]
        for extraction, look in (("strict", "a"), ("flexible", "b")):
            found = metrics[extraction]
            low, high = found["interval_95"]
            strict = extraction == "strict"
            rows.append(
                Interval(
                    f"{named(after)}, {extraction}" if strict else extraction,
                    found["accuracy"],
                    low,
                    high,
                    look=look,
                    hollow=not strict,
                    reference=paper.value if paper and strict else None,
                )
            )
    label = "Accuracy with 95 % intervals: " + "; ".join(
        f"{named(after)} {proportion(metrics['strict'])}" for after, metrics in evaluations
    )
    caption = "Accuracy with 95 % intervals. Filled: strict; hollow: flexible."
    if any(papers.values()):
        caption += " Diamond: the paper's."
    return figure(intervals(rows, label=label, x_label="right answers"), caption)
