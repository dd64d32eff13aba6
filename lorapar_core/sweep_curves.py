"""The part of a sweep's page on training: each point's loss and reward over the optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from lorapar_core.report_block import Block, Html
from lorapar_core.report_charts import LOOKS, Series, figure, finite, line, span, thinned
from lorapar_core.report_training import SHOWN, Step

Curves = Mapping[tuple[str, str], Sequence[Sequence[Step]]]
"""Point and training stage -> the steps of each seed."""
KEYS = ("loss", "reward")
MOST_PLACES = 60
"""Of a line, so that several can be told apart."""


def curve_blocks(curves: Curves) -> list[Block]:
    """Loss and reward of each stage: the mean over seeds, a line a point.

    Charts of one figure have the same axes.
    """
    figures: list[Html] = []
    rows = []
    for phase in dict.fromkeys(phase for _, phase in curves):
        of_phase = {label: seeds for (label, at), seeds in curves.items() if at == phase}
        for key in KEYS:
            if any(key in step for seeds in of_phase.values() for steps in seeds for step in steps):
                means = {label: _mean(seeds, key) for label, seeds in of_phase.items()}
                figures += _charts(phase, key, means)
                rows += [
                    [label, phase, SHOWN[key], str(len(mean.x)), *_ends(mean), str(len(seeds))]
                    for (label, seeds), mean in zip(of_phase.items(), means.values(), strict=True)
                ]
    words = (
        "The mean over seeds, at the steps that all of them have logged. A line of more than "
        f"{MOST_PLACES} steps shows the means of neighbours. A group's advantages add up to 0, and "
        "so does GRPO's loss, but for rounding, clipping and a KL term."
    )
    header = ["point", "stage", "figure", "steps", "first tenth", "last tenth", "seeds"]
    return [Block("Training", words, header, rows, figures)] if rows else []


def _mean(seeds: Sequence[Sequence[Step]], key: str) -> Series:
    """Over the seeds, without values that are no numbers."""
    each = [{step["step"]: step[key] for step in steps if key in step} for steps in seeds]
    common = [k for k in each[0] if all(k in found for found in each)]
    return finite(Series("", common, [fmean(found[k] for found in each) for k in common]))


def _ends(mean: Series) -> list[str]:
    """The means of the first and of the last tenth of the steps."""
    some = max(1, len(mean.y) // 10)
    return [f"{fmean(part):.4g}" if part else "–" for part in (mean.y[:some], mean.y[-some:])]


def _charts(phase: str, key: str, means: Mapping[str, Series]) -> Iterator[Html]:
    """The lines in charts of about as many each, no more than there are colours."""
    series = [
        replace(thinned(mean, MOST_PLACES), name=label, low=(), high=())
        for label, mean in means.items()
        if mean.x
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
