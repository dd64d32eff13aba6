"""What a sweep took: its training stages by point, and every kind of stage with what was shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from artifacts import Record, Ref, Store
from flows.footprint import commits_of, machines_of, recorded, stage_footprint
from flows.pipeline import Result
from flows.sweeps import Trial
from tasks.train import TRAINING

_MEANS = ("seconds", "tokens_per_second", "optimizer_bytes", "elements", "active_elements")
_HIGHEST = ("peak_bytes", "peak_gpu_bytes")


def sweep_footprint(found: Mapping[Trial, Result], *, store: Store) -> dict[str, Any]:
    """Plain values: `training` by point and stage, `stages` by kind, `machines`, `commits`,
    `recipe` (a trial's, as its report tells it, and the trial's name), `reports` (trial -> digest
    of its page), and `artifacts` (the first trial that asks for it, stage and role, digest).

    `found`: finished trials, and what is in the store of each.
    """
    records = {}
    asked: dict[str, list[str]] = {}
    recipe: dict[str, Any] = {}
    training: dict[tuple[str, str], list[dict[str, Any]]] = {}
    artifacts: list[tuple[str, str, str]] = []
    for trial, result in found.items():
        for outcome, record in recorded(result.outcomes, store=store):
            if record.key not in records:
                artifacts += [
                    (trial.name, f"{outcome.name}/{role}", ref.digest)
                    for role, ref in record.outputs.items()
                ]
            records[record.key] = record
            if record.stage == "report" and not recipe:
                recipe = {"trial": trial.name, "sections": record.config["recipe"]}
            asked.setdefault(record.stage, []).append(record.key)
            if record.stage in TRAINING:
                place = (trial.point.label, outcome.name)
                training.setdefault(place, []).append(stage_footprint(outcome, record))
    return {
        "training": [
            {"point": point, "stage": stage, **_mean(each)}
            for (point, stage), each in training.items()
        ],
        "stages": [
            _of_kind(stage, keys, {key: records[key] for key in keys})
            for stage, keys in asked.items()
        ],
        "machines": machines_of(records.values()),
        "commits": commits_of(records.values()),
        "recipe": recipe,
        "reports": {
            trial.name: result.report.digest
            for trial, result in found.items()
            if isinstance(result.report, Ref)
        },
        "artifacts": artifacts,
    }


def _of_kind(stage: str, keys: Sequence[str], different: Mapping[str, Record]) -> dict[str, Any]:
    """All stages of a name: how often they were asked for, and what the different ones took."""
    told = [record.provenance for record in different.values()]
    peaks = [one.get("footprint", {}).get("peak_bytes") for one in told]
    return {
        "stage": stage,
        "asked": len(keys),
        "computed": len(different),
        "seconds": _sum([one.get("seconds") for one in told]),
        "peak_bytes": max(filter(None, peaks), default=None),
    }


def _sum(seconds: Sequence[float | None]) -> float | None:
    """None where a record doesn't tell."""
    known = [value for value in seconds if value is not None]
    return round(sum(known), 1) if len(known) == len(seconds) else None


def _mean(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several trials' figures; what none of them tells is left out."""
    found: dict[str, Any] = {"trials": len(each)}
    found["went_on"] = sum(bool(figures["went_on"]) for figures in each)
    for names, together in ((_MEANS, fmean), (_HIGHEST, max)):
        for name in names:
            told = [figures[name] for figures in each if figures.get(name) is not None]
            if told:
                found[name] = together(told)
    return found
