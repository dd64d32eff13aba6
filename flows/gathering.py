"""What a sweep's trials have left in the store, as one action that compares them.

The store is asked and nobody else: a trial is compared once it is evaluated, whoever ran it, in
this run or an earlier one. It is whole if all that is compared and shown of it can be read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from artifacts import CorruptObject, MissingObject, Ref, Store
from flows.pipeline import Result, pipeline
from flows.plan_runner import PlanRunner
from flows.sweep_exhibit import Exhibit, exhibit, exhibit_inputs
from flows.sweep_inputs import knows_the_truth, trial_inputs
from flows.sweeps import Claim, Sweep, Term, Trial
from lorapar_core.errors import LoraparError, StageFailed
from lorapar_core.methods import expanded
from tasks.action import Action, Input
from tasks.report import told_recipe
from tasks.sweep import results


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
    found = {trial: result for trial in trials if (result := _evaluated(trial, store))}
    if not found:
        raise StageFailed(
            f"no trial of the sweep {sweep.name} has finished; there is no comparison"
        )
    points = list(dict.fromkeys(trial.point.label for trial in trials))
    by_label = {trial.point.label: trial.point for trial in trials}
    phases = {label: _phases(label, found) for label in points}
    first = trials[0].recipe
    model = first.model.base.rstrip("/").rpartition("/")[2].removeprefix("gguf:")
    one = exhibit(sweep, found)
    action = results(
        first,
        sweep=sweep.name,
        model=model,
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
            for claim in distinct(sweep.claims([by_label[label] for label in points]), phases)
        ],
        calibrations=_calibrations(sweep, trials),
        exhibit=_told_of(one, model) if one else {},
        inputs=_inputs(sweep, found, one),
    )
    return Gathered(action, found)


def is_whole(sweep: Sweep, trial: Trial, store: Store) -> bool:
    """Whether a trial is evaluated, and everything that is compared and shown of it is readable;
    what is corrupt goes into quarantine."""
    try:
        result = _evaluated(trial, store)
    except (CorruptObject, MissingObject):
        return False
    if result is None:
        return False
    found = [*trial_inputs(sweep, trial, result).values(), *exhibit_inputs(result).values()]
    whole = [_is_readable(value, store) for value in found]  # every one is looked at
    return all(whole)


def _is_readable(value: Input, store: Store) -> bool:
    if not isinstance(value, Ref):
        return False
    try:
        store.path(value)
    except (CorruptObject, MissingObject):
        return False
    return True


def _evaluated(trial: Trial, store: Store) -> Result | None:
    """What a trial came to; None while an evaluation of it is missing."""
    try:
        result = pipeline(trial.recipe, PlanRunner(store))
    except LoraparError:  # why it can't be done, whoever tried it has said
        return None
    return result if is_evaluated(result) else None


def is_evaluated(result: Result) -> bool:
    """Whether all its evaluations are there."""
    return all(outcome.action == "cached" for outcome in result.evaluations.values())


def _phases(label: str, found: dict[Trial, Result]) -> list[str]:
    """The training stages of a point's finished trials, in order."""
    for trial, result in found.items():
        if trial.point.label == label:
            return [after for after in result.evaluations if after != "base"]
    return []


def distinct(claims: Iterable[Claim], phases: Mapping[str, Sequence[str]]) -> list[Claim]:
    """Those that compare something, each once: where a point has one training stage, after its
    first and after its last is the same."""
    found: dict[frozenset[tuple[tuple[str, str], float]], Claim] = {}
    for claim in claims:
        places = [_place(term, phases) for term in claim.terms]
        if len(set(places)) > 1:
            weights = (term.weight for term in claim.terms)
            found.setdefault(frozenset(zip(places, weights, strict=True)), claim)
    return list(found.values())


def _place(term: Term, phases: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """A point, and the training stage after which it is looked at."""
    known = phases[term.label] or ["first", "last"]
    return term.label, known[0 if term.phase == "first" else -1]


def _calibrations(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, str]:
    """Teacher -> its calibration, where the labels can be held against the truth."""
    if not knows_the_truth(sweep, trials[0]):
        return {}
    return {teacher.name: teacher.calibration for t in trials for teacher in t.recipe.asked}


def _told_of(one: Exhibit, model: str) -> dict[str, Any]:
    return {"trial": one.trial.name, "recipe": told_recipe(expanded(one.trial.recipe), model)}


def _inputs(sweep: Sweep, found: Mapping[Trial, Result], one: Exhibit | None) -> dict[str, Input]:
    inputs: dict[str, Input] = {}
    for trial, result in found.items():
        for role, value in trial_inputs(sweep, trial, result).items():
            inputs.setdefault(role, value)
    if one:
        inputs |= {f"exhibit/{role}": value for role, value in one.inputs.items()}
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
