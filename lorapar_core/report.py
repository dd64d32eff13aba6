"""Stage `report`: one self-contained page about a run, as HTML and as Markdown.

It holds no time and no path: the same run gives the same page. What third parties wrote (model
replies, data) is escaped.

config: recipe, model. Inputs: summary, agreement, regions, evaluation/NAME, training/NAME (JSON
and JSON lines) and adapter; agreement and regions where there are labels and masks. Writes
`report.html` and `report.md`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorapar_core.config import OUR_REWARDS, PAPER_REWARDS
from lorapar_core.report_block import Block, Row, percent
from lorapar_core.report_trust import trust_blocks
from lorapar_core.spec import Spec


def run(spec: Spec, out: Path) -> None:
    blocks = [
        *_accuracy(spec),
        *_labels(spec),
        *_regions(spec),
        *_rewards(spec),
        *_training(spec),
        *_digests(spec),
        *_recipe(spec),
    ]
    recipe = spec.config["recipe"]
    method = recipe.get("method", "LoRA-PAR")
    title = f"{method}: {recipe['name']} on {spec.config['model']}"
    (out / "report.md").write_text(as_markdown(title, blocks))
    (out / "report.html").write_text(as_html(title, blocks))


def _read(spec: Spec, role: str) -> Any:
    return json.loads(spec.inputs[role].read_text())


def _named(spec: Spec, kind: str) -> list[tuple[str, Path]]:
    """Inputs `kind/NAME`, in the order of the pipeline."""
    return [
        (role.partition("/")[2], path)
        for role, path in spec.inputs.items()
        if role.startswith(f"{kind}/")
    ]


def _accuracy(spec: Spec) -> list[Block]:
    rows = []
    for after, path in _named(spec, "evaluation"):
        metrics = json.loads(path.read_text())
        rows.append(
            [
                "before training" if after == "base" else f"after {after}",
                str(metrics["n"]),
                *(_proportion(metrics[extraction]) for extraction in ("strict", "flexible")),
                f"{metrics['mean_tokens']:.0f}",
                f"{100 * metrics['finished_share']:.0f} %",
            ]
        )
    words = (
        "Greedy answers to the test problems, with Wilson 95 % intervals. Strict takes the number "
        "in the place that the prompt asks for, flexible the last number."
    )
    if "tests" in spec.config["recipe"]["data"]["columns"]:
        words += (
            " A problem that carries tests is not run here and counts as wrong: these figures "
            "don't measure it."
        )
    header = ["", "problems", "strict", "flexible", "mean tokens", "finished"]
    return [Block("Accuracy", words, header, rows)]


def _proportion(figures: Mapping[str, Any]) -> str:
    low, high = figures["interval_95"]
    return f"{100 * figures['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _labels(spec: Spec) -> list[Block]:
    if "agreement" not in spec.inputs:
        return []
    agreement, data = _read(spec, "agreement"), _read(spec, "summary")
    counts, voting = agreement["counts"], spec.config["recipe"]["voting"]
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
    teachers = spec.config["recipe"]["teachers"]
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


def _regions(spec: Spec) -> list[Block]:
    if "regions" not in spec.inputs:
        return []
    regions = _read(spec, "regions")
    counts, partition = regions["counts"], spec.config["recipe"]["partition"]
    total = counts["elements"]
    control = partition["choice"] == "random"
    words = (
        f"theta {partition['theta']}, alpha {partition['alpha']}, beta {partition['beta']}"
        f"{', as many elements of each region at random (a control)' if control else ''}. "
        f"System 1 keeps {percent(regions['kept_share']['1'])} of {total:,} elements, System 2 "
        f"{percent(regions['kept_share']['2'])}; Jaccard overlap {regions['jaccard']:.3f}."
    )
    names = (("s1_only", "S1 only"), ("s2_only", "S2 only"), ("shared", "shared"), ("rest", "rest"))
    rows = [[text, f"{counts[key]:,}", percent(counts[key] / total)] for key, text in names]
    by_module = _by_module(regions["by_place"])
    return [
        Block("Regions", words, ["region", "elements", "share"], rows),
        Block("Regions by module", "", ["module", *(t for _, t in names)], by_module),
    ]


def _by_module(places: Mapping[str, Mapping[str, int]]) -> list[Row]:
    modules: dict[str, dict[str, int]] = {}
    for place, counts in places.items():
        module = modules.setdefault(place.rpartition(".")[2], {})
        for key, count in counts.items():
            module[key] = module.get(key, 0) + count
    keys = ("s1_only", "s2_only", "shared", "rest")
    return [
        [name, *(percent(counts[key] / counts["elements"]) for key in keys)]
        for name, counts in sorted(modules.items())
    ]


def _rewards(spec: Spec) -> list[Block]:
    """What was rewarded, where that isn't what the paper says."""
    recipe = spec.config["recipe"]
    rewards = {name: weight for name, weight in recipe["grpo"]["rewards"].items() if weight}
    others = [name for name in rewards if name not in PAPER_REWARDS]
    if not others or all(stage["kind"] != "grpo" for stage in recipe["stages"]):
        return []
    ours = [name for name in others if name in OUR_REWARDS]
    words = [
        *([f"{_listed(ours)}: lorapar's choice, for the paper doesn't say."] if ours else []),
        *(f"{name}: this recipe's own function." for name in others if name not in OUR_REWARDS),
        "The accuracy above compares whole answers with the reference, which says little of free "
        "text and of code.",
    ]
    rows = [[name, f"{weight:g}"] for name, weight in rewards.items()]
    return [Block("Rewards", " ".join(words), ["reward", "weight"], rows)]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def _training(spec: Spec) -> list[Block]:
    blocks = []
    for name, path in _named(spec, "training"):
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        shown = [key for key in ("loss", "reward", "grad_norm", "kl") if key in steps[-1]]
        curves = [(key, [float(step.get(key, 0.0)) for step in steps]) for key in shown]
        first, last = steps[0], steps[-1]
        rows = [[key, f"{first.get(key, 0.0):.4g}", f"{last[key]:.4g}"] for key in shown]
        blocks.append(
            Block(
                f"Training: {name}",
                f"{len(steps)} optimizer steps.",
                ["figure", "first step", "last step"],
                rows,
                (curves, "optimizer step"),
            )
        )
    return blocks


def _digests(spec: Spec) -> list[Block]:
    rows = [[role, digest] for role, digest in spec.digests.items()]
    words = "`lorapar artifacts show DIGEST` tells what an artifact was made from."
    return [Block("Artifacts", words, ["role", "sha256"], rows)]


def _recipe(spec: Spec) -> list[Block]:
    rows = [
        [section, json.dumps(value, ensure_ascii=False)]
        for section, value in spec.config["recipe"].items()
    ]
    return [Block("Recipe", "", ["section", "value"], rows)]


def as_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The page as Markdown tables."""
    parts = [f"# {_in_markdown(title)}"]
    for block in blocks:
        parts.append(f"## {block.title}")
        if block.words:
            parts.append(_in_markdown(block.words))
        if block.rows:
            lines = [block.header, ["---"] * len(block.header), *block.rows]
            cells = ([_in_markdown(cell) for cell in line] for line in lines)
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in cells))
    return "\n\n".join(parts) + "\n"


def _in_markdown(text: str) -> str:
    """`text` on one line, with nothing that Markdown takes for a tag or for the end of a cell."""
    return html.escape(" ".join(text.splitlines()), quote=False).replace("|", "&#124;")


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file that needs nothing else."""
    body = "".join(_section(block) for block in blocks)
    shown = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{shown}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{shown}</h1>{body}</body></html>\n"
    )


def _section(block: Block) -> str:
    parts = [f"<h2>{html.escape(block.title)}</h2>"]
    if block.words:
        parts.append(f"<p>{html.escape(block.words)}</p>")
    if block.curves:
        series, axis = block.curves
        parts.append('<div class="curves">')
        parts += [curve(name, values, axis) for name, values in series]
        parts.append("</div>")
    if block.rows:
        parts.append("<table>" + _row(block.header, "th"))
        parts += [_row(row, "td") for row in block.rows]
        parts.append("</table>")
    return "<section>" + "".join(parts) + "</section>"


def _row(cells: Row, tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def curve(name: str, values: Sequence[float], axis: str) -> str:
    """A line over steps as inline SVG, with its least and greatest value."""
    low, high = min(values), max(values)
    span, last = (high - low) or 1.0, max(1, len(values) - 1)
    points = " ".join(
        f"{10 + 280 * k / last:.1f},{90 - 75 * (value - low) / span:.1f}"
        for k, value in enumerate(values)
    )
    shown = html.escape(name)
    return (
        f'<figure><svg viewBox="0 0 300 100" role="img" aria-label="{shown} over {axis}s">'
        f'<polyline points="{points}"/></svg>'
        f"<figcaption>{shown}: {low:.4g} to {high:.4g} over {len(values)} {axis}s</figcaption>"
        "</figure>"
    )


_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--paper:#fdfdfb;--line:#d8dce2;--accent:#2563a8}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ec;--paper:#14181f;--line:#353c48;--accent:#7db4ee}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);
overflow-wrap:anywhere;vertical-align:top}
.curves{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:18rem}
figcaption{font-size:.8rem}polyline{fill:none;stroke:var(--accent);stroke-width:2}
svg{border:1px solid var(--line);width:100%}
"""
