"""The page of a sweep: its points, its claims, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.report_block import Block, Html, Row, percent
from lorapar_core.report_charts import Interval, Series, differences, figure, intervals, line
from lorapar_core.report_page import facts
from lorapar_core.report_run import place_for_run

SAID = {
    "holds": "holds",
    "fails": "fails: the opposite is seen",
    "open": "open",
    "unmeasured": "unmeasured: no seed has all its points",
}
COUNTED = {"holds": "hold", "fails": "fail", "open": "open", "unmeasured": "unmeasured"}
LEARNING_RATES = (
    " LoRA, OLoRA and PiSSA, and what is made of them, have the recipe's learning rate; prompt "
    "tuning, P-tuning, prefix tuning and IA3 have rates of their own: none is tuned method by "
    "method."
)


def blocks(
    results: Mapping[str, Any], digests: Mapping[str, str], beside: Sequence[Block] = ()
) -> list[Block]:
    """The page's parts, in order. `digests`: input role -> what names it. `beside`: parts that are
    made of something else than the results."""
    return [
        _summary(results),
        _points(results),
        *([_claims(results)] if results["claims"] else []),
        *_truth(results),
        *beside,
        place_for_run(),
        _artifacts(digests),
    ]


def _summary(results: Mapping[str, Any]) -> Block:
    verdicts = [claim["verdict"] for claim in results["claims"]]
    counts = ", ".join(f"{verdicts.count(v)} {COUNTED[v]}" for v in COUNTED if v in verdicts)
    seeds = f"{_seeds(results)} " + ", ".join(map(str, results["seeds"]))
    told = f" ({results['description']})" if results["description"] else ""
    words = (
        f"Recipe {results['recipe']}{told}, model {results['model']}, {results['problems']} test "
        f"problems, {seeds}. Claims of these points: {counts or 'none'}."
    )
    return Block("Summary", words)


def _seeds(results: Mapping[str, Any]) -> str:
    return "seed" if len(results["seeds"]) == 1 else "seeds"


def head(results: Mapping[str, Any]) -> Html:
    """The sweep in four figures."""
    verdicts = [claim["verdict"] for claim in results["claims"]]
    alone = ", of this seed alone" if len(results["seeds"]) == 1 else ""
    counts = " / ".join(str(verdicts.count(verdict)) for verdict in ("holds", "fails", "open"))
    return facts(
        [
            (str(len(results["points"])), "points"),
            (str(len(results["seeds"])), _seeds(results)),
            (str(results["problems"]), "test problems"),
            *([(counts, f"claims hold / fail / are open{alone}")] if verdicts else []),
        ]
    )


def _points(results: Mapping[str, Any]) -> Block:
    moved = list(results["points"][0]["values"]) if results["points"] else []
    rows: list[Row] = []
    if base := results["base"]:
        paper = "" if results["paper_base"] is None else f"{results['paper_base']:g}"
        rows.append(["before training", *[""] * len(moved), "", "", _span(base), "", "", paper])
    for point in results["points"]:
        rows += _rows(point, results["seeds"])
    words = (
        "Strict accuracy in percent, the mean over seeds, with a 95 % interval from a bootstrap "
        "over seeds and problems (one seed: over problems). Kept: elements that System 1 / System "
        "2 keep."
    )
    if results["paper"]:
        words += f" Paper: {results['paper']}."
    if results["sweep"] == "baselines":
        words += LEARNING_RATES
    header = ["point", *moved, "kept", "after", "accuracy", "by seed", "flexible", "paper"]
    drawn = _by_theta(results) if results["sweep"] == "theta" else _by_point(results)
    return Block("Points", words, header, rows, figures=[drawn])


def _by_point(results: Mapping[str, Any]) -> Html:
    """Accuracy with its interval, and the paper's, a row for each point and training stage."""
    several = any(len(point["phases"]) > 1 for point in results["points"])
    rows = []
    if base := results["base"]:
        paper = results["paper_base"]
        beside = None if paper is None else paper / 100
        rows.append(Interval("before training", *_span_of(base, "accuracy"), reference=beside))
    for point in results["points"]:
        for k, phase in enumerate(point["phases"]):
            name = f"{point['label']}, {phase['after']}" if several else point["label"]
            beside = point["paper"][k] / 100 if k < len(point["paper"]) else None
            hollow = several and k == 0
            rows.append(Interval(name, *_span_of(phase, "estimate"), "a", hollow, beside))
    caption = "The mean over seeds, with 95 % intervals; before training Wilson's."
    if several:
        caption += " Hollow: after the first training stage."
    if any(row.reference is not None for row in rows):
        caption += " Diamond: the paper's."
    drawn = intervals(rows, label="accuracy of every point", x_label="strict accuracy")
    return figure(drawn, caption)


def _span_of(found: Mapping[str, float], value: str) -> tuple[float, float, float]:
    """A value with the ends of its interval."""
    return found[value], found["low"], found["high"]


def _by_theta(results: Mapping[str, Any]) -> Html:
    """Accuracy with its interval, that of the controls, and the paper's."""
    series = []
    for elements, look in (("importance", "a"), ("random", "b")):
        own = [p for p in results["points"] if p["values"]["elements"] == elements and p["phases"]]
        last = [point["phases"][-1] for point in own]
        thetas = [point["values"]["theta"] for point in own]
        estimates, low, high = ([p[k] for p in last] for k in ("estimate", "low", "high"))
        series.append(Series(elements, thetas, estimates, low, high, look=look))
    there = [p for p in results["points"] if p["paper"] and p["values"]["elements"] == "importance"]
    shown = [point["paper"][-1] / 100 for point in there]
    series.append(Series("paper", [p["values"]["theta"] for p in there], shown, look="c"))
    drawn = line(
        [one for one in series if one.x],
        label="accuracy over theta",
        x_label="theta",
        y_label="strict accuracy",
        shares=True,
    )
    return figure(drawn, "The mean over seeds, with 95 % intervals.")


def _rows(point: Mapping[str, Any], seeds: Sequence[int]) -> list[Row]:
    """A row for each training stage, or one that says that there is none."""
    told = [point["label"], *(_text(value) for value in point["values"].values())]
    kept = point["kept_share"]
    told.append("" if kept is None else " / ".join(percent(kept[s]) for s in ("1", "2")))
    if not point["phases"]:
        return [[*told, "", "did not finish", "", "", _figure(point["paper"], 0)]]
    rows: list[Row] = []
    for k, phase in enumerate(point["phases"]):
        lost = len(seeds) - len(phase["seeds"])
        rows.append(
            [
                *(told if k == 0 else [""] * len(told)),
                phase["after"],
                _span({**phase, "accuracy": phase["estimate"]})
                + (f" ({lost} of {len(seeds)} seeds did not finish)" if lost else ""),
                " ".join(f"{100 * value:.1f}" for value in phase["by_seed"]),
                f"{100 * phase['flexible']:.1f}",
                _figure(point["paper"], k),
            ]
        )
    return rows


def _figure(paper: Sequence[float], place: int) -> str:
    """The paper's figure after so many training stages."""
    return f"{paper[place]:g}" if place < len(paper) else ""


def _span(found: Mapping[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * found['accuracy']:.1f} ({low:.1f} to {high:.1f})"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _claims(results: Mapping[str, Any]) -> Block:
    rows: list[Row] = []
    for claim in results["claims"]:
        paper = "" if claim["paper"] is None else f"{100 * claim['paper']:+.2f}"
        if claim["verdict"] == "unmeasured":
            rows.append([claim["text"], "", "", "", SAID["unmeasured"], "", paper])
            continue
        low, high = 100 * claim["low"], 100 * claim["high"]
        alone = len(claim["seeds"]) == 1
        rows.append(
            [
                claim["text"],
                f"{100 * claim['estimate']:+.2f}",
                f"{low:+.2f} to {high:+.2f} ({100 * claim['level']:.2f} %)",
                f"{claim['p']:.4f}",
                SAID[claim["verdict"]] + (", of this seed alone" if alone else ""),
                "1 seed, problems" if alone else f"{len(claim['seeds'])} seeds",
                paper,
            ]
        )
    words = (
        "Differences in percentage points, paired by seed and problem. The intervals come from a "
        "bootstrap over seeds and problems, crossed, and are corrected for the number of claims in "
        "this table (Holm): a claim holds if its interval lies above 0, fails if it lies below, "
        "and is open if 0 is in it. Seeds are taken to differ no less than they do in this table "
        "on average, so another table gives the same difference another interval. Two seeds say "
        "little of a third, and with one intervals say nothing of another seed."
    )
    header = ["claim", "difference", "interval", "p", "verdict", "over", "paper"]
    return Block("Claims", words, header, rows, figures=_by_claim(results["claims"]))


_LOOKS = {"holds": "c", "fails": "b", "open": "rest"}


def _by_claim(claims: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Each difference with its corrected interval, and the paper's."""
    rows = [
        Interval(
            f"{claim['text']}: {claim['verdict']}",
            *_span_of(claim, "estimate"),
            look=_LOOKS[claim["verdict"]],
            hollow=claim["verdict"] == "open",
            reference=claim["paper"],
        )
        for claim in claims
        if claim["verdict"] in _LOOKS
    ]
    if not rows:
        return []
    caption = "Differences with their corrected intervals. Hollow: 0 is in it."
    if any(row.reference is not None for row in rows):
        caption += " Diamond: the paper's difference."
    drawn = differences(rows, label="the claims' differences", x_label="percentage points")
    return [figure(drawn, caption)]


def _truth(results: Mapping[str, Any]) -> list[Block]:
    """The labels and the teachers against the truth, where it is known."""
    truth = results["truth"]
    if not truth:
        return []
    labels: list[Row] = [
        [
            found["label"],
            *(percent(found["labels"].get(name)) for name in ("all", "system1", "system2")),
            str(len(found["teachers"])),
            _number(found["error_correlation"]),
        ]
        for found in truth["strategies"]
    ]
    teachers: list[Row] = [
        [
            found["label"],
            name,
            *(percent(rates[system]) for system in ("all", "system1", "system2")),
        ]
        for found in truth["strategies"]
        for name, rates in found["teachers"].items()
    ]
    shares = ["wrong", "of System 1", "of System 2"]
    return [
        Block(
            "Labels against the truth",
            f"The {truth['examples']} examples are known to take one step or several. Error "
            "correlation: the mean over pairs of teachers of how their errors go together.",
            ["strategy", *shares, "teachers", "error correlation"],
            labels,
        ),
        Block("Teachers against the truth", "", ["strategy", "teacher", *shares], teachers),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _artifacts(digests: Mapping[str, str]) -> Block:
    words = "`lorapar artifacts show DIGEST` tells what an artifact was made from."
    return Block(
        "Artifacts", words, ["role", "sha256"], [[role, digest] for role, digest in digests.items()]
    )
