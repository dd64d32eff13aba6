"""What a run came to, as plain values, as a table, and as a document in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts import Ref, Store
from artifacts.durable import write_whole
from flows.footprint import footprint
from flows.pipeline import Result
from lorapar_core.config import Recipe
from lorapar_core.report_run import with_run
from lorapar_core.scores import measure_names
from tasks.action import Input


def summarize(result: Result, *, recipe: Recipe, store: Store, command: str = "") -> dict[str, Any]:
    """Stages, artifact digests, accuracies and where the report is; the report's page is written.

    `command` makes the run again.

    Raises:
        StoreError: an artifact that it reads is corrupt or gone.
    """
    artifacts = {
        f"{outcome.name}/{role}": ref.digest
        for outcome in result.outcomes
        for role, ref in outcome.outputs.items()
    }
    page, adapter = _ref(result.report), _ref(result.adapter)
    return {
        "recipe": recipe.name,
        "stages": {
            outcome.name: {"action": outcome.action, "seconds": round(outcome.seconds, 1)}
            for outcome in result.outcomes
        },
        "artifacts": {**artifacts, "adapter": adapter.digest, "report": page.digest},
        "metrics": {
            after: store.read_json(_ref(outcome["metrics.json"]))
            for after, outcome in result.evaluations.items()
        },
        "benchmarks": {
            name: {
                after: store.read_json(_ref(outcome["metrics.json"]))
                for after, outcome in by_stage.items()
            }
            for name, by_stage in result.benchmarks.items()
        },
        "report": str(_page(store, page, result, command)),
        "adapter": str(store.path(adapter)),
    }


def _ref(value: Input) -> Ref:
    if not isinstance(value, Ref):
        raise TypeError(f"{value} is no artifact of the store; the run is not finished")
    return value


def _page(store: Store, report: Ref, result: Result, command: str) -> Path:
    """The report with what this run took, under a name that a browser opens."""
    page = store.root / "runs" / f"{report.digest[:16]}.html"
    taken = footprint(result.outcomes, store=store)
    text = with_run(store.path(report).read_text(encoding="utf-8"), taken, command=command)
    write_whole(page, text.encode(), tmp=store.root / "tmp")
    return page


def stage_table(summary: Mapping[str, Any]) -> str:
    """Stage, cached or computed, seconds, and the digest of its first artifact that is no log: a
    log holds times, and differs from run to run."""
    rows = []
    for name, stage in summary["stages"].items():
        digest = next(
            (
                digest
                for role, digest in summary["artifacts"].items()
                if role.startswith(f"{name}/") and "_log." not in role
            ),
            "",
        )
        rows.append((name, stage["action"], f"{stage['seconds']:.1f}", digest[:12]))
    return table(("stage", "action", "seconds", "artifact"), rows)


def accuracy_table(summary: Mapping[str, Any]) -> str:
    """Accuracy by both extractions, with 95 % intervals."""
    rows = []
    for after, metrics in summary["metrics"].items():
        cells = [_accuracy(metrics[extraction]) for extraction in ("strict", "flexible")]
        rows.append((label(after), str(metrics["n"]), *cells))
    return table(("accuracy", "n", "strict", "flexible"), rows)


def accuracy_tables(summary: Mapping[str, Any]) -> list[str]:
    """The recipe's own test set, then each benchmark."""
    benchmarks = summary.get("benchmarks", {})  # a summary of an older version has none
    return [accuracy_table(summary), *(_benchmark_table(*item) for item in benchmarks.items())]


def _benchmark_table(name: str, by_stage: Mapping[str, Any]) -> str:
    columns = measure_names(by_stage)
    rows = [
        (
            label(after),
            str(found["n"]),
            *_accuracies(found, columns),
        )
        for after, found in by_stage.items()
    ]
    return table((name, "n", *columns), rows)


def _accuracies(found: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    return [_accuracy(found[name]) if name in found else "" for name in columns]


def label(after: str) -> str:
    """`base` -> before training, `sft` -> after SFT."""
    return "before training" if after == "base" else f"after {after.upper()}"


def _accuracy(figures: Mapping[str, Any]) -> str:
    low, high = figures["interval_95"]
    return f"{100 * figures['accuracy']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
