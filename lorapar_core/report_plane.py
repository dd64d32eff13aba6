"""The plane of both importances: each element's place by its importance for either system.

A darker square holds more elements. The cuts of a theta divide the plane into the regions, so one
drawing serves every theta: it is shown four times, each time through the window of a region and in
its colour, and the page's script moves the windows. The colours are those of the paper's figure:
S1 only is red, S2 only blue, shared purple.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.report_block import Html
from lorapar_core.report_charts import WIDTH, Axis, svg, text_at

LEFT, RIGHT, TOP, BOTTOM = 50.0, WIDTH - 12.0, 18.0, 312.0
HEIGHT = 352
SHADES = 7


def axes(plane: Mapping[str, Any]) -> tuple[Axis, Axis]:
    """Decades along x (System 1) and y (System 2)."""
    one, two = plane["decades"]["1"], plane["decades"]["2"]
    return Axis(one[0], one[1], LEFT, RIGHT), Axis(two[0], two[1], BOTTOM, TOP)


def cut_places(profile: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Where each theta's cuts stand in the drawing: x of System 1's, y of System 2's."""
    x, y = axes(profile["plane"])
    return (
        [round(x.at(_decade(cut)), 1) for cut in profile["cuts"]["1"]],
        [round(y.at(_decade(cut)), 1) for cut in profile["cuts"]["2"]],
    )


def _decade(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def plane_drawing(profile: Mapping[str, Any], x_cut: float, y_cut: float) -> Html:
    """The drawing with its windows at these places."""
    plane = profile["plane"]
    windows = "".join(
        f'<clipPath id="clip-{name}"><rect id="window-{name}" x="{x0:.1f}" y="{y0:.1f}" '
        f'width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"/></clipPath>'
        for name, (x0, y0, x1, y1) in _windows(x_cut, y_cut).items()
    )
    size = (RIGHT - LEFT) / plane["bins"], (BOTTOM - TOP) / plane["bins"]
    body = (
        f'<defs>{windows}<g id="density" shape-rendering="crispEdges" transform="translate({LEFT} '
        f'{BOTTOM}) scale({size[0]:.4f} {-size[1]:.4f})">{_density(plane["counts"])}</g></defs>'
        + _decoration(plane)
        + "".join(
            f'<g class="{look} region" clip-path="url(#clip-{name})"><use href="#density"/></g>'
            for name, look in (("s1", "one"), ("s2", "two"), ("shared", "shared"), ("rest", "rest"))
        )
        + f'<path id="cut-1" class="cut" d="M{x_cut:.1f} {TOP}V{BOTTOM}"/>'
        + f'<path id="cut-2" class="cut" d="M{LEFT} {y_cut:.1f}H{RIGHT}"/>'
    )
    label = (
        "Elements by their importance for System 1 (across) and System 2 (up), on logarithmic "
        "axes; the cuts of theta divide them into the regions"
    )
    return svg(label, HEIGHT, body)


def _windows(x: float, y: float) -> dict[str, tuple[float, float, float, float]]:
    """Region -> left, top, right and foot of its part of the plane."""
    return {
        "s1": (x, y, RIGHT, BOTTOM),
        "s2": (LEFT, TOP, x, y),
        "shared": (x, TOP, RIGHT, y),
        "rest": (LEFT, y, x, BOTTOM),
    }


def _density(counts: Sequence[Sequence[int]]) -> str:
    """A path for each shade, of runs of squares; a unit is a square."""
    most = math.log(max(count for _, _, count in counts) + 1)
    shades: dict[int, dict[int, list[int]]] = {}
    for i, j, count in counts:
        shade = min(SHADES, 1 + int(SHADES * math.log(count + 1) / most))
        shades.setdefault(shade, {}).setdefault(i, []).append(j)
    parts = []
    for shade in sorted(shades):
        drawn = "".join(
            f"M{i} {start}v{length}h1v-{length}z"
            for i, bins in sorted(shades[shade].items())
            for start, length in _runs(bins)
        )
        opacity = 0.16 + 0.84 * shade / SHADES
        parts.append(f'<path d="{drawn}" fill="currentColor" fill-opacity="{opacity:.2f}"/>')
    return "".join(parts)


def _runs(bins: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as first and length of what follows without a gap."""
    runs: list[tuple[int, int]] = []
    for k in bins:
        start, length = runs[-1] if runs else (k, 0)
        if runs and start + length == k:
            runs[-1] = (start, length + 1)
        else:
            runs.append((k, 1))
    return runs


def _decoration(plane: Mapping[str, Any]) -> str:
    x, y = axes(plane)
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for axis, across in ((x, True), (y, False)):
        decades = range(math.ceil(axis.low), math.floor(axis.high) + 1)
        every = max(1, math.ceil(len(decades) / 7))
        for k in decades:
            place = axis.at(k)
            tick = f"M{place:.1f} {BOTTOM}v4" if across else f"M{LEFT} {place:.1f}h-4"
            parts.append(f'<path class="tick" d="{tick}"/>')
            if (k - decades[-1]) % every == 0:
                spot = (place, BOTTOM + 16) if across else (LEFT - 7, place + 3.5)
                parts.append(text_at(*spot, f"1e{k}", anchor="middle" if across else "end"))
    middle = (LEFT + RIGHT) / 2
    parts.append(
        text_at(middle, HEIGHT - 6, "importance for System 1", anchor="middle", look="name")
    )
    parts.append(text_at(4, 11, "importance for System 2", look="name"))
    return "".join(parts)
