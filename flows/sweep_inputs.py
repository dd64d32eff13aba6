"""What the comparison of a sweep's trials reads of each of them."""

from __future__ import annotations

from collections.abc import Sequence

from flows.pipeline import Result
from flows.sweeps import Sweep, Trial
from lorapar_core.true_system import SOURCES
from tasks.action import Input, Outcome
from tasks.train import TRAINING

PREDICTIONS = "predictions.parquet"


def trial_inputs(sweep: Sweep, trial: Trial, result: Result) -> dict[str, Input]:
    """Role -> artifact; `base`, the predictions before training, is of all trials the same."""
    place = f"{trial.point.label}/{trial.seed}"
    inputs: dict[str, Input] = {}
    for after, outcome in result.evaluations.items():
        role = "base" if after == "base" else f"predictions/{place}/{after}"
        inputs[role] = outcome[PREDICTIONS]
    for outcome in result.outcomes:
        if outcome.stage in TRAINING:
            inputs[f"training/{place}/{outcome.name}"] = outcome["figures.jsonl"]
        elif outcome.stage == "partition":
            inputs[f"regions/{place}"] = outcome["regions.json"]
    if knows_the_truth(sweep, trial):
        inputs |= _labels(trial, result.outcomes)
    return inputs


def knows_the_truth(sweep: Sweep, trial: Trial) -> bool:
    """Whether labels are what is swept, and each example's true system is known."""
    return sweep.name == "labels" and trial.recipe.data.source in SOURCES


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
