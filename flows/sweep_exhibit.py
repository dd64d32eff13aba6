"""The one trial whose regions and labels stand on a sweep's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from artifacts import Ref
from flows.pipeline import Result
from flows.sweeps import Sweep, Trial
from lorapar_core.methods import expanded
from tasks.action import Input

_OF_STAGE = {
    "prepare": ("summary", "summary.json"),
    "tally": ("agreement", "agreement.json"),
    "profile": ("profile", "profile.json"),
    "partition": ("regions", "regions.json"),
}
"""Stage -> the role of what is shown of it, and the output's name."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """The trial, and what is shown of it."""

    trial: Trial
    inputs: Mapping[str, Input]


def exhibit_inputs(result: Result) -> dict[str, Input]:
    """What the page would show of the trial."""
    return {
        _OF_STAGE[outcome.stage][0]: outcome[_OF_STAGE[outcome.stage][1]]
        for outcome in result.outcomes
        if outcome.stage in _OF_STAGE
    }


def exhibit(sweep: Sweep, found: Mapping[Trial, Result]) -> Exhibit | None:
    """The sweep's own choice of points first; never a random control where there is another."""
    each = [Exhibit(trial, _there(exhibit_inputs(result))) for trial, result in found.items()]
    worth = [one for one in each if {"profile", "agreement"} & one.inputs.keys()]
    return min(worth, key=lambda one: _rank(sweep, one), default=None)


def _there(inputs: Mapping[str, Input]) -> dict[str, Input]:
    return {role: value for role, value in inputs.items() if isinstance(value, Ref)}


def _rank(sweep: Sweep, one: Exhibit) -> tuple[bool, bool, int]:
    label, chosen = one.trial.point.label, expanded(one.trial.recipe).partition.choice
    place = sweep.exhibits.index(label) if label in sweep.exhibits else len(sweep.exhibits)
    return "profile" not in one.inputs, chosen != "importance", place
