"""The part of a sweep's page on training: each point's loss or reward over the optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from lorapar_core.report_block import Block, Html
from lorapar_core.report_charts import LOOKS, Series, figure, line, span, thinned
from lorapar_core.report_training import SHOWN, Step

Curves = Mapping[tuple[str, str], Sequence[Sequence[Step]]]
"""Point and training stage -> the steps of each seed."""
MOST_TOLD = 60
"""Points of a line, so that several can be told apart."""


def curve_blocks(curves: Curves) -> list[Block]:
    """The reward of stages that have one, the loss of others: the mean over seeds, a line a point.

    Charts of one stage have the same axes.
    """
    figures: list[Html] = []
    rows = []
    for phase in dict.fromkeys(phase for _, phase in curves):
        of_phase = {label: seeds for (label, at), seeds in curves.items() if at == phase}
        key = "reward" if any(_has(seeds, "reward") for seeds in of_phase.values()) else "loss"
        means = {label: mean for label, seeds in of_phase.items() if (mean := _mean(seeds, key))}
        figures += _charts(phase, key, means)
        rows += [
            [label, phase, SHOWN[key], str(len(mean)), *_ends(mean), str(len(of_phase[label]))]
            for label, mean in means.items()
        ]
    words = (
        "The mean over seeds of the reward, or where there is none of the loss; each place of a "
        "line is the mean of a few optimizer steps."
    )
    header = ["point", "stage", "figure", "steps", "first tenth", "last tenth", "seeds"]
    return [Block("Training", words, header, rows, figures)] if rows else []


def _has(seeds: Sequence[Sequence[Step]], key: str) -> bool:
    return any(key in step for steps in seeds for step in steps)


def _mean(seeds: Sequence[Sequence[Step]], key: str) -> dict[float, float]:
    """Step -> the mean over seeds, at the steps that all of them logged."""
    each = [{step["step"]: step[key] for step in steps if key in step} for steps in seeds]
    return {k: fmean(found[k] for found in each) for k in each[0] if all(k in f for f in each)}


def _ends(mean: Mapping[float, float]) -> list[str]:
    """The means of the first and of the last tenth of the steps."""
    values = list(mean.values())
    some = max(1, len(values) // 10)
    return [f"{fmean(part):.4g}" for part in (values[:some], values[-some:])]


def _charts(phase: str, key: str, means: Mapping[str, Mapping[float, float]]) -> Iterator[Html]:
    """The lines in charts of about as many each, no more than there are colours."""
    series = [
        replace(thinned(Series(label, list(mean), list(mean.values())), MOST_TOLD), low=(), high=())
        for label, mean in means.items()
    ]
    x_range = span([x for one in series for x in one.x])
    y_range = span([y for one in series for y in one.y], margin=0.06)
    charts = -(-len(series) // len(LOOKS))
    for k in range(charts):
        some = series[k * len(series) // charts : (k + 1) * len(series) // charts]
        drawn = line(
            [replace(one, look=look) for one, look in zip(some, LOOKS, strict=False)],
            label=f"{SHOWN[key]} of {phase} over optimizer steps",
            x_label="optimizer step",
            y_label=SHOWN[key],
            x_range=x_range,
            y_range=y_range,
        )
        alone = f": {some[0].name}" if len(some) == 1 else ""
        yield figure(drawn, f"{SHOWN[key]} of {phase}{alone}")
