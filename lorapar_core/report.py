"""Stage `report`: one self-contained page about a run, as HTML and as Markdown.

It holds no time and no path: the same run gives the same page. What third parties wrote (model
replies, data) is escaped. What the run took is added to the copy that people open (`report_run`).

config: recipe, model. Inputs, all but the first two only where the run has them: summary,
agreement, regions, profile, evaluation/NAME, training/NAME (JSON and JSON lines) and adapter.
Writes `report.html` and `report.md`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorapar_core.report_accuracy import accuracy_blocks, named
from lorapar_core.report_benchmarks import benchmark_blocks
from lorapar_core.report_block import Block, Html, percent
from lorapar_core.report_labels import label_blocks
from lorapar_core.report_page import as_html, as_markdown, facts
from lorapar_core.report_regions import region_blocks
from lorapar_core.report_run import place_for_run
from lorapar_core.report_training import reward_blocks, training_blocks
from lorapar_core.spec import Spec


def run(spec: Spec, out: Path) -> None:
    recipe = spec.config["recipe"]
    evaluations = [(name, _json(path)) for name, path in _named(spec, "evaluation")]
    regions = _read(spec, "regions")
    agreement = _read(spec, "agreement")
    blocks = [
        *accuracy_blocks(recipe, spec.config["model"], evaluations),
        *benchmark_blocks(spec),
        *(region_blocks(recipe, regions, _read(spec, "profile")) if regions else []),
        *reward_blocks(recipe),
        *_training(spec),
        *(label_blocks(recipe, agreement, _read(spec, "summary")) if agreement else []),
        place_for_run(),
        *_digests(spec),
        *_recipe(recipe),
    ]
    method = recipe["method"]
    shown = "LoRA-PAR" if method == "lora-par" else method
    title = f"{shown}: {recipe['name']} on {spec.config['model']}"
    head = _head(recipe, evaluations, regions, agreement)
    (out / "report.md").write_text(as_markdown(title, blocks), encoding="utf-8")
    page = as_html(title, blocks, head=head)
    (out / "report.html").write_text(page, encoding="utf-8")


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _read(spec: Spec, role: str) -> Any:
    """A role's value; None where the run has no such role."""
    return _json(spec.inputs[role]) if role in spec.inputs else None


def _named(spec: Spec, kind: str) -> list[tuple[str, Path]]:
    """Inputs `kind/NAME`, in the order of the pipeline."""
    return [
        (role.partition("/")[2], path)
        for role, path in spec.inputs.items()
        if role.startswith(f"{kind}/")
    ]


def _head(
    recipe: Mapping[str, Any],
    evaluations: Sequence[tuple[str, Mapping[str, Any]]],
    regions: Mapping[str, Any] | None,
    agreement: Mapping[str, Any] | None,
) -> Html:
    """What the recipe says of itself, and the run in four figures."""
    told = []
    for after, metrics in [*evaluations[-1:], *evaluations[:-1][:1]]:  # the last, then the first
        name = f"strict accuracy {named(after)}, {metrics['n']} problems"
        told.append((percent(metrics["strict"]["accuracy"]), name))
    if regions:
        kept = " / ".join(percent(regions["kept_share"][system]) for system in ("1", "2"))
        told.append((kept, "of elements kept for System 1 / System 2"))
    if agreement:
        counts = agreement["counts"]
        told.append((f"{counts['1']} / {counts['2']}", "examples of System 1 / System 2"))
    words = f"<p>{html.escape(recipe['description'])}</p>" if recipe["description"] else ""
    return Html(words + facts(told))


def _training(spec: Spec) -> list[Block]:
    blocks = []
    for name, path in _named(spec, "training"):
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        blocks += training_blocks(name, steps)
    return blocks


def _digests(spec: Spec) -> list[Block]:
    rows = [[role, digest] for role, digest in spec.digests.items()]
    words = (
        "What this page was made from. `lorapar artifacts show DIGEST` tells what an artifact was "
        "made from in turn."
    )
    return [Block("Artifacts", words, ["role", "sha256"], rows)]


def _recipe(recipe: Mapping[str, Any]) -> list[Block]:
    rows = [[section, json.dumps(value, ensure_ascii=False)] for section, value in recipe.items()]
    return [Block("Recipe", "", ["section", "value"], rows)]
