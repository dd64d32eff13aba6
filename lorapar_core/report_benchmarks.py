"""The report's part on benchmarks, and on what each stage of training changed, example by example.

Inputs: benchmark/NAME, measured/AFTER/NAME, and predictions/AFTER (the recipe's own test set) or
predictions/AFTER/NAME, in the order of the pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lorapar_core.comparison import Comparison, compare
from lorapar_core.parquet import read_table
from lorapar_core.report_block import Block
from lorapar_core.scores import measure_names
from lorapar_core.spec import Spec

OWN = "own test set"


def benchmark_blocks(spec: Spec) -> list[Block]:
    """A table of accuracies a benchmark, and one of paired tests for all sets."""
    return [*_measured(spec), *_compared(spec)]


def _measured(spec: Spec) -> list[Block]:
    metrics: dict[str, dict[str, Any]] = {}
    for role, path in spec.inputs.items():
        if role.startswith("measured/"):
            _, after, name = role.split("/")
            metrics.setdefault(name, {})[after] = json.loads(path.read_text())
    blocks = []
    for name, by_stage in metrics.items():
        told = json.loads(spec.inputs[f"benchmark/{name}"].read_text())
        columns = measure_names(by_stage)
        rows = [
            [stage_label(after), str(found["n"]), *_shares(found, columns)]
            for after, found in by_stage.items()
        ]
        header = ["", "problems", *columns]
        beyond = max(found.get("beyond_context", 0) for found in by_stage.values())
        words = _words(told) + (
            f" {beyond} take more tokens than the model knows." if beyond else ""
        )
        blocks.append(Block(f"Benchmark: {name}", words, header, rows))
        blocks += _groups(name, by_stage)
    return blocks


def _words(told: Mapping[str, Any]) -> str:
    shots = max((len(shown) for shown in told["shots"].values()), default=0)
    source = told["data"]["set"]
    pinned = source["sha256"] or source["revision"] or "unknown"
    read = "; ".join(f"{name}: {how}" for name, how in told["extraction"].items())
    return (
        f"{told['task']}, {told['count']} problems, {shots} worked examples before each, from "
        f"{source['name']} ({pinned[:12]}). 95 % intervals. {read}."
    )


def _groups(name: str, by_stage: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """MMLU's subjects."""
    grouped = {after: found["groups"] for after, found in by_stage.items() if "groups" in found}
    if not grouped:
        return []
    subjects = sorted({group for groups in grouped.values() for group in groups})
    rows = [
        [
            subject.replace("_", " "),
            str(next(iter(grouped.values()))[subject]["n"]),
            *(proportion(groups[subject]) for groups in grouped.values()),
        ]
        for subject in subjects
    ]
    header = ["subject", "problems", *map(stage_label, grouped)]
    return [Block(f"Benchmark: {name}, by subject", "", header, rows)]


def _shares(found: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    return [proportion(found[name]) if name in found else "" for name in columns]


def _compared(spec: Spec) -> list[Block]:
    """Each evaluation against the one before it, and the last against the first."""
    tables: dict[str, dict[str, Path]] = {}
    for role, path in spec.inputs.items():
        if role.startswith("predictions/"):
            _, after, *name = role.split("/")
            tables.setdefault(name[0] if name else OWN, {})[after] = path
    rows = [
        [name, f"{stage_label(second)} less {stage_label(first)}", *row]
        for name, by_stage in tables.items()
        for first, second in _pairs(list(by_stage))
        for row in _tested(by_stage[first], by_stage[second])
    ]
    if not rows:
        return []
    words = (
        "The same problems, one by one: how many only the former or only the latter gets right, "
        "the difference of the two accuracies with a 95 % interval (Agresti and Min), and the p "
        "value of McNemar's exact test that neither is better. p values are not corrected for how "
        "many there are."
    )
    header = ["set", "compared", "read", "only former", "only latter", "difference", "p"]
    return [Block("Paired comparisons", words, header, rows)]


def _pairs(stages: list[str]) -> list[tuple[str, str]]:
    return [*pairwise(stages), *([(stages[0], stages[-1])] if len(stages) > 2 else [])]


def _tested(first: Path, second: Path) -> list[list[str]]:
    """Rows of the comparisons; none where answers were drawn, or read in different ways."""
    tables = [read_table(path) for path in (first, second)]
    if any("sample" in table and any(table["sample"]) for table in tables):
        return []
    return [
        [
            found.extraction,
            str(found.only_first),
            str(found.only_second),
            difference(found),
            f"{found.p:.3g}",
        ]
        for found in compare(*tables)
    ]


def difference(found: Comparison) -> str:
    """In percentage points, with its interval."""
    points, low, high = (100 * value for value in found.difference)
    return f"{points:+.1f} ({low:+.1f} to {high:+.1f})"


def stage_label(after: str) -> str:
    return "before training" if after == "base" else f"after {after}"


def proportion(figures: Mapping[str, Any]) -> str:
    low, high = figures["interval_95"]
    return f"{100 * figures['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
