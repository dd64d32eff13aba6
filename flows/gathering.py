"""What a sweep's trials have left in the store, as one action that compares them.

The store is asked and nobody else: a trial counts once all its evaluations are there, whoever ran
it, in this run or an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts import CorruptObject, MissingObject, Ref, Store
from flows.pipeline import Result, pipeline
from flows.plan import PlanRunner
from flows.sweeps import Claim, Sweep, Trial
from lorapar_core.errors import LoraparError, StageFailed
from lorapar_core.true_system import SOURCES
from tasks.action import Action, Input, Outcome
from tasks.sweep import results

PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True, slots=True)
class Gathered:
    """The comparison of the trials that are done, and what they came to."""

    action: Action
    done: Mapping[Trial, Result]


def gathered(sweep: Sweep, trials: Sequence[Trial], store: Store) -> Gathered:
    """The comparison of the trials that are done.

    Raises:
        StageFailed: none is.
    """
    found = {trial: result for trial in trials if (result := _done(trial, store))}
    if not found:
        raise StageFailed(
            f"no trial of the sweep {sweep.name} has finished; there is no comparison"
        )
    points = list(dict.fromkeys(trial.point.label for trial in trials))
    by_label = {trial.point.label: trial.point for trial in trials}
    phases = {label: _phases(label, found) for label in points}
    first = trials[0].recipe
    action = results(
        first,
        sweep=sweep.name,
        model=first.model.base.rstrip("/").rpartition("/")[2].removeprefix("gguf:"),
        seeds=list(dict.fromkeys(trial.seed for trial in trials)),
        points=[
            {
                "label": label,
                "values": dict(by_label[label].values),
                "phases": phases[label],
            }
            for label in points
        ],
        claims=[
            asdict(claim)
            for claim in sweep.claims([by_label[label] for label in points])
            if compares(claim, phases)
        ],
        calibrations=_calibrations(sweep, first.data.source, trials),
        inputs=_inputs(sweep, found),
    )
    return Gathered(action, found)


def is_done(trial: Trial, store: Store) -> bool:
    """Whether a trial counts, with predictions that can be read; what is corrupt goes into
    quarantine."""
    try:
        result = _done(trial, store)
    except (CorruptObject, MissingObject):
        return False
    if result is None:
        return False
    found = (outcome[PREDICTIONS] for outcome in result.evaluations.values())
    whole = [_is_whole(ref, store) for ref in found]  # every one is looked at
    return all(whole)


def _is_whole(value: Input, store: Store) -> bool:
    if not isinstance(value, Ref):
        return False
    try:
        store.path(value)
    except (CorruptObject, MissingObject):
        return False
    return True


def _done(trial: Trial, store: Store) -> Result | None:
    """What a trial came to; None while an evaluation of it is missing."""
    try:
        result = pipeline(trial.recipe, PlanRunner(store))
    except LoraparError:  # why it can't be done, whoever tried it has said
        return None
    done = all(outcome.action == "cached" for outcome in result.evaluations.values())
    return result if done else None


def _phases(label: str, found: dict[Trial, Result]) -> list[str]:
    """The training stages of a point's finished trials, in order."""
    for trial, result in found.items():
        if trial.point.label == label:
            return [after for after in result.evaluations if after != "base"]
    return []


def compares(claim: Claim, phases: Mapping[str, Sequence[str]]) -> bool:
    """Whether a claim's terms are not all one and the same: after its first and after its last
    stage is the same where a point has one stage."""
    places = set()
    for term in claim.terms:
        known = phases[term.label] or ["first", "last"]
        places.add((term.label, known[0 if term.phase == "first" else -1]))
    return len(places) > 1


def _calibrations(sweep: Sweep, source: str, trials: Sequence[Trial]) -> dict[str, str]:
    """Teacher -> its calibration, where labels are what is swept and the truth is known."""
    if sweep.name != "labels" or source not in SOURCES:
        return {}
    return {teacher.name: teacher.calibration for t in trials for teacher in t.recipe.asked}


def _inputs(sweep: Sweep, found: dict[Trial, Result]) -> dict[str, Input]:
    inputs: dict[str, Input] = {}
    for trial, result in found.items():
        place = f"{trial.point.label}/{trial.seed}"
        for after, outcome in result.evaluations.items():
            if after == "base":
                inputs.setdefault("base", outcome[PREDICTIONS])
            else:
                inputs[f"predictions/{place}/{after}"] = outcome[PREDICTIONS]
        for outcome in result.outcomes:
            if outcome.stage == "partition":
                inputs[f"regions/{place}"] = outcome["regions.json"]
        if sweep.name == "labels" and trial.recipe.data.source in SOURCES:
            inputs |= _labels(trial, result.outcomes)
    return inputs


def _labels(trial: Trial, outcomes: Sequence[Outcome]) -> dict[str, Input]:
    """A trial's examples, labels and votes. Its point's votes are the same with every seed."""
    label = trial.point.label
    inputs: dict[str, Input] = {}
    rounds: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.stage == "prepare":
            inputs["examples"] = outcome["examples.parquet"]
        elif outcome.stage == "tally":
            inputs[f"labels/{label}/{trial.seed}"] = outcome["labels.parquet"]
        elif outcome.stage == "vote":
            teacher = outcome.name.removeprefix("vote[").removesuffix("]").partition("/")[0]
            rounds[teacher] = rounds.get(teacher, -1) + 1
            inputs[f"votes/{label}/{teacher}/{rounds[teacher]:06}"] = outcome["votes.parquet"]
    return inputs


def told(
    trials: Sequence[Trial], done: Mapping[Trial, Result], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Trials that are not there, with why, where that is known."""
    return [
        {"trial": trial.name, "error": failed.get(trial.name, "it did not finish")}
        for trial in trials
        if trial not in done
    ]
