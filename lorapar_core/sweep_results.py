"""Stage `sweep`: a sweep's points beside each other, and what became of its claims.

Per point and training stage: accuracy, the mean over seeds, with a 95 % interval over seeds and
problems. Per claim: the paired difference with its corrected interval, and the verdict (`claims`).
Answers are judged strictly, as the paper judges them; the flexible accuracy stands beside. A point
that did not finish with every seed is compared over those seeds that its partners have too.

config: sweep, recipe, description, model, theta, modules, seeds, points (label, values, phases),
claims (text, terms of label, weight, phase), calibrations (teacher -> calibration where the truth
is known and asked for, else empty), exhibit (trial, recipe: of the trial that `exhibit/` is of; or
empty). Inputs: predictions/LABEL/SEED/PHASE, training/LABEL/SEED/PHASE and regions/LABEL/SEED
(those that there are), `base` (predictions before training), `exhibit/` summary, agreement, profile
and regions of one trial, and for the truth examples, labels/LABEL/SEED and
votes/LABEL/TEACHER/ROUND. Writes `results.json`, `report.md` and `report.html`; no time and no path
is in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorapar_core.claims import Interval, Judged, intervals, judge
from lorapar_core.errors import DataError
from lorapar_core.label_truth import error_rates, mean_rates, teachers_errors
from lorapar_core.paper_sweeps import BASE, SOURCES, Figures, paper_figures
from lorapar_core.parquet import read_table
from lorapar_core.report_block import Block
from lorapar_core.report_page import as_html, as_markdown
from lorapar_core.report_training import Step
from lorapar_core.rounds import Votes
from lorapar_core.spec import Spec
from lorapar_core.statistics import wilson
from lorapar_core.sweep_curves import Curves, curve_blocks
from lorapar_core.sweep_page import blocks, head
from lorapar_core.sweep_trial import trial_blocks
from lorapar_core.teachers.calibration import labels_of
from lorapar_core.true_system import true_system

BOOTSTRAP_SEED = 0
DIGITS = 6
Key = tuple[str, str, int]
"""Label, training stage, seed."""


def run(spec: Spec, out: Path) -> None:
    results = compared(spec)
    text = json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    title = f"LoRA-PAR: sweep {spec.config['sweep']} of {spec.config['recipe']}"
    page = blocks(results, spec.digests, [*curve_blocks(_curves(spec)), *_exhibit(spec)])
    (out / "report.md").write_text(as_markdown(title, page), encoding="utf-8")
    (out / "report.html").write_text(as_html(title, page, head=head(results)), encoding="utf-8")


def _curves(spec: Spec) -> Curves:
    found: dict[tuple[str, str], list[list[Step]]] = {}
    for role, path in spec.inputs.items():
        kind, _, rest = role.partition("/")
        if kind == "training":
            label, _seed, phase = rest.split("/")
            steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found.setdefault((label, phase), []).append(steps)
    return found


def _exhibit(spec: Spec) -> list[Block]:
    roles = ("summary", "agreement", "profile", "regions")
    told = {
        role: json.loads(path.read_text(encoding="utf-8"))
        for role in roles
        if (path := spec.inputs.get(f"exhibit/{role}"))
    }
    one = spec.config["exhibit"]
    return trial_blocks(one["trial"], one["recipe"], told) if one else []


def compared(spec: Spec) -> dict[str, Any]:
    """What `results.json` holds.

    Raises:
        DataError: two predictions are of different test problems.
    """
    config, answers = spec.config, Answers.read(spec)
    return {
        **{name: config[name] for name in ("sweep", "recipe", "description", "model", "seeds")},
        "problems": len(answers.problems),
        "base": _base(spec),
        "paper": SOURCES.get(config["sweep"]),
        "paper_base": BASE if config["sweep"] != "order" else None,
        "points": _points(spec, answers),
        "claims": _claims(config, answers),
        "truth": _truth(spec) if config["calibrations"] else None,
    }


@dataclass(frozen=True)
class Answers:
    """Which problems each trial answered right."""

    problems: tuple[str, ...]
    """Example ids, sorted."""
    strict: Mapping[Key, np.ndarray]
    """0 or 1 a problem."""
    flexible: Mapping[Key, float]
    """Accuracy by the other extraction."""

    @classmethod
    def read(cls, spec: Spec) -> Answers:
        """All predictions but those before training.

        Raises:
            DataError: of different test problems, or of one.
        """
        problems: tuple[str, ...] = ()
        strict, flexible = {}, {}
        for role, path in spec.inputs.items():
            kind, _, rest = role.partition("/")
            if kind != "predictions":
                continue
            label, seed, phase = rest.split("/")
            columns = read_table(path, ["example_id", "strict_correct", "flexible_correct"])
            ids, right, loosely = columns.values()
            order = sorted(range(len(ids)), key=ids.__getitem__)
            found = tuple(ids[k] for k in order)
            if problems not in ((), found):
                raise DataError(
                    f"{role} is of other test problems than the predictions before it; all points "
                    "of a sweep need the same data section"
                )
            problems = found
            key = (label, phase, int(seed))
            strict[key] = np.array([right[k] for k in order], dtype=np.float64)
            flexible[key] = sum(loosely) / len(loosely)
        if len(problems) < 2:
            raise DataError(
                f"{len(problems)} test problem can't tell points apart; raise data.test_examples"
            )
        return cls(problems, strict, flexible)

    def seeds(self, *places: tuple[str, str]) -> list[int]:
        """Seeds with which all of these (label, phase) are there."""
        found = [{s for label, phase, s in self.strict if (label, phase) == p} for p in places]
        return sorted(set.intersection(*found)) if found else []

    def table(self, label: str, phase: str, seeds: Sequence[int]) -> np.ndarray:
        """0 or 1, shape (seeds, problems)."""
        return np.stack([self.strict[label, phase, seed] for seed in seeds])


def _points(spec: Spec, answers: Answers) -> list[dict[str, Any]]:
    config = spec.config
    places = [(p["label"], phase) for p in config["points"] for phase in p["phases"]]
    there = [place for place in places if answers.seeds(place)]
    tables = [answers.table(*place, answers.seeds(place)) for place in there]
    found = dict(zip(there, intervals(tables, seed=BOOTSTRAP_SEED), strict=True))
    return [_point(spec, point, answers, found) for point in config["points"]]


def _point(
    spec: Spec,
    point: Mapping[str, Any],
    answers: Answers,
    found: Mapping[tuple[str, str], Interval],
) -> dict[str, Any]:
    label = point["label"]
    kept, active = _shares(spec, label)
    phases = []
    for phase in point["phases"]:
        seeds = answers.seeds((label, phase))
        if not seeds:
            continue
        strict = [float(answers.strict[label, phase, seed].mean()) for seed in seeds]
        flexible = [answers.flexible[label, phase, seed] for seed in seeds]
        phases.append(
            {
                "after": phase,
                "seeds": seeds,
                **_interval(found[label, phase]),
                **_ends(*_bounds(found[label, phase], len(answers.problems))),
                "by_seed": _rounded(strict),
                "flexible": round(float(np.mean(flexible)), DIGITS),
            }
        )
    return {
        "label": label,
        "values": point["values"],
        "phases": phases,
        "kept_share": kept,
        "active_share": active,
        "paper": list(_paper(spec.config, point)),
    }


def _bounds(interval: Interval, problems: int) -> tuple[float, float]:
    """An accuracy's ends, no less than 0 and no more than 1. Where every answer is right, or none,
    no draw differs, and Wilson's interval over the problems says what that is worth."""
    if interval.estimate in (0.0, 1.0):
        return wilson(round(interval.estimate * problems), problems)
    return max(0.0, interval.low), min(1.0, interval.high)


def _shares(spec: Spec, label: str) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """Share of the elements that each system keeps and trains, the mean over seeds; None where
    nothing was partitioned."""
    prefix = f"regions/{label}/"
    found = [
        json.loads(p.read_text()) for role, p in spec.inputs.items() if role.startswith(prefix)
    ]
    if not found:
        return None, None
    kept, active = (
        {s: round(float(np.mean([f[name][s] for f in found])), DIGITS) for s in ("1", "2")}
        for name in ("kept_share", "active_share")
    )
    return kept, active


def _base(spec: Spec) -> dict[str, Any] | None:
    """Before training, with Wilson's interval: no seed moves it."""
    if "base" not in spec.inputs:
        return None
    right = read_table(spec.inputs["base"], ["strict_correct"])["strict_correct"]
    low, high = wilson(sum(right), len(right))
    return {"accuracy": round(sum(right) / len(right), DIGITS), **_ends(low, high)}


def _claims(config: Mapping[str, Any], answers: Answers) -> list[dict[str, Any]]:
    """Each claim with its verdict, *unmeasured* where no seed has all its points."""
    phases = {p["label"]: p["phases"] for p in config["points"]}
    tables: dict[int, np.ndarray] = {}
    seeds: dict[int, list[int]] = {}
    for k, claim in enumerate(config["claims"]):
        places = [(t["label"], _phase(phases, t)) for t in claim["terms"]]
        seeds[k] = answers.seeds(*places)
        if seeds[k]:
            weighed = zip(claim["terms"], places, strict=True)
            tables[k] = sum(
                (t["weight"] * answers.table(*place, seeds[k]) for t, place in weighed),
                np.zeros((len(seeds[k]), len(answers.problems))),
            )
    judged = dict(zip(tables, judge(list(tables.values()), seed=BOOTSTRAP_SEED), strict=True))
    paper = {point["label"]: _paper(config, point) for point in config["points"]}
    return [
        {
            "text": claim["text"],
            "seeds": seeds[k],
            "paper": _paper_difference(claim, paper),
            **(_judged(judged[k], claim) if k in judged else {"verdict": "unmeasured"}),
        }
        for k, claim in enumerate(config["claims"])
    ]


def _phase(phases: Mapping[str, Sequence[str]], term: Mapping[str, Any]) -> str:
    """The training stage that a term means; none where its point has no finished trial."""
    known = phases[term["label"]]
    return known[0 if term["phase"] == "first" else -1] if known else ""


def _paper(config: Mapping[str, Any], point: Mapping[str, Any]) -> Figures:
    return paper_figures(
        config["sweep"],
        point["label"],
        point["values"],
        theta=config["theta"],
        modules=config["modules"],
    )


def _paper_difference(
    claim: Mapping[str, Any],
    paper: Mapping[str, Figures],
) -> float | None:
    """The same weighted sum of the paper's accuracies, as a share; None where it lacks one."""
    terms = claim["terms"]
    if not all(paper[term["label"]] for term in terms):
        return None
    difference = 0.0
    for term in terms:
        difference += term["weight"] * paper[term["label"]][0 if term["phase"] == "first" else -1]
    return round(difference / 100, DIGITS)


def _judged(judged: Judged, claim: Mapping[str, Any]) -> dict[str, Any]:
    """The interval goes no further than accuracies of 0 and 1 could."""
    most = sum(term["weight"] for term in claim["terms"] if term["weight"] > 0)
    low, high = max(-most, judged.interval.low), min(most, judged.interval.high)
    return {
        **_interval(judged.interval),
        **_ends(low, high),
        "p": round(judged.p, DIGITS),
        "verdict": judged.verdict,
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in asdict(interval).items()}


def _ends(low: float, high: float) -> dict[str, float]:
    return {"low": round(low, DIGITS), "high": round(high, DIGITS)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def _truth(spec: Spec) -> dict[str, Any]:
    """How wrong each strategy's labels are and each teacher is, where the truth is known."""
    columns = read_table(spec.inputs["examples"], ["id", "answer"])
    truth = {i: int(true_system(a)) for i, a in zip(*columns.values(), strict=True)}
    found = []
    for point in spec.config["points"]:
        labels = [
            error_rates(_labels(path), truth)
            for role, path in spec.inputs.items()
            if role.startswith(f"labels/{point['label']}/")
        ]
        if labels:
            votes = _votes(spec, point["label"])
            found.append(
                {
                    "label": point["label"],
                    "labels": mean_rates(labels),
                    **teachers_errors(votes, truth),
                }
            )
    return {"examples": len(truth), "strategies": found}


def _labels(path: Path) -> dict[str, int | None]:
    return dict(zip(*read_table(path, ["example_id", "system"]).values(), strict=True))


def _votes(spec: Spec, label: str) -> dict[str, Votes]:
    """Teacher -> its votes for a point's labels, as the tally counts them."""
    rounds: dict[str, list[dict[str, Any]]] = {}
    for role in sorted(spec.inputs):
        kind, _, rest = role.partition("/")
        if kind == "votes" and rest.startswith(f"{label}/"):
            rounds.setdefault(rest.split("/")[1], []).append(read_table(spec.inputs[role]))
    calibrations = spec.config["calibrations"]
    return {name: labels_of(tables, calibrations[name])[0] for name, tables in rounds.items()}
