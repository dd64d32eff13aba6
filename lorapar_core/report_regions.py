"""The report's part on regions: those of the run, and those that any theta would make.

The run's own come from `regions.json`. The rest is drawn from the profile: the plane of both
importances, a map of layers and modules for each region, and how much each theta keeps. A slider
moves theta through the profile's grid; without a script the page shows the run's theta.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.config import MODULE_LETTERS
from lorapar_core.paper_figures import ACTIVE_BY_THETA, OVERLAP
from lorapar_core.report_block import Block, Html, Row, percent
from lorapar_core.report_charts import (
    WIDTH,
    Axis,
    Cell,
    Series,
    figure,
    heat,
    line,
    row,
    top_of,
)
from lorapar_core.report_page import data
from lorapar_core.report_plane import cut_places, plane_drawing

REGIONS = (
    ("s1_only", "S1 only", "one"),
    ("s2_only", "S2 only", "two"),
    ("shared", "shared", "shared"),
    ("rest", "rest", "rest"),
)
"""Region, its name and its colour's class."""
_NAMES = [name for _, name, _ in REGIONS]
TALL = 224
"""Of the chart beside the plane, so that both end alike."""
_PLANE = (
    "Every element by both importances; a stronger square holds more. Right of the cut is kept for "
    "System 1, above it for System 2. Elements as important as the cut itself may fall on either "
    "side."
)
Counts = Mapping[str, int]


def region_blocks(
    recipe: Mapping[str, Any], regions: Mapping[str, Any], profile: Mapping[str, Any] | None
) -> list[Block]:
    """`regions.json` beside the recipe that led to it; without a profile, no figures."""
    blocks = [_own(recipe, regions)]
    if profile is not None:
        blocks.append(_any_theta(recipe, profile))
    blocks.append(
        Block(
            "Regions by module",
            "",
            ["module", *_NAMES],
            _by_module(regions["by_place"]),
            under=True,
        )
    )
    return [*blocks, *_beside_the_paper(recipe, regions)]


def _own(recipe: Mapping[str, Any], regions: Mapping[str, Any]) -> Block:
    counts, partition = regions["counts"], recipe["partition"]
    total = counts["elements"]
    control = partition["choice"] == "random"
    words = (
        f"theta {partition['theta']}, alpha {partition['alpha']}, beta {partition['beta']}"
        f"{', as many elements of each region at random (a control)' if control else ''}. "
        f"System 1 keeps {percent(regions['kept_share']['1'])} of {total:,} elements, System 2 "
        f"{percent(regions['kept_share']['2'])}; Jaccard overlap {regions['jaccard']:.3f}."
    )
    rows = [[name, f"{counts[key]:,}", percent(counts[key] / total)] for key, name, _ in REGIONS]
    return Block("Regions", words, ["region", "elements", "share"], rows)


def _by_module(places: Mapping[str, Counts]) -> list[Row]:
    modules: dict[str, dict[str, int]] = {}
    for place, counts in places.items():
        module = modules.setdefault(place.rpartition(".")[2], {})
        for key, count in counts.items():
            module[key] = module.get(key, 0) + count
    return [
        [name, *(percent(counts[key] / counts["elements"]) for key, _, _ in REGIONS)]
        for name, counts in sorted(modules.items())
    ]


def _beside_the_paper(recipe: Mapping[str, Any], regions: Mapping[str, Any]) -> list[Block]:
    """Where theta and modules are those of the paper's scatter, and importance has chosen."""
    partition = recipe["partition"]
    alike = (
        partition["theta"] == 0.9
        and partition["choice"] == "importance"
        and recipe["lora"]["modules"] == "QKVGUD"
    )
    if not alike:
        return []
    rows = [
        ["this run", *_overlap(regions)],
        *(
            [f"the paper, LLaMA-2-7B on {name}", percent(one), percent(two), f"{jaccard:.3f}"]
            for name, (one, two, jaccard) in OVERLAP.items()
        ),
    ]
    words = (
        "At theta 0.9 with the same modules. Shares of elements can be compared in kind; another "
        "model and other data give other ones."
    )
    header = ["", "S1-only of what S1 keeps", "S2-only of what S2 keeps", "Jaccard overlap"]
    return [Block("Beside the paper", words, header, rows, under=True)]


def _overlap(regions: Mapping[str, Any]) -> list[str]:
    counts = regions["counts"]
    one, two, shared = (counts[key] for key in ("s1_only", "s2_only", "shared"))
    return [
        percent(one / max(1, one + shared)),
        percent(two / max(1, two + shared)),
        f"{regions['jaccard']:.3f}",
    ]


def _any_theta(recipe: Mapping[str, Any], profile: Mapping[str, Any]) -> Block:
    thetas, theta = profile["thetas"], recipe["partition"]["theta"]
    start = min(range(len(thetas)), key=lambda k: abs(thetas[k] - theta))
    words = (
        "What importance would keep at another theta, counted exactly at each theta of the "
        "slider; alpha and beta change none of it."
    )
    if thetas[start] != theta:
        words += f" The run's theta, {theta:g}, is not among them; it starts at the nearest."
    if recipe["partition"]["choice"] == "random":
        words += " This run is a control and drew its elements at random: it doesn't show here."
    places = profile["places"]
    lines, rule = _growth(recipe, profile, start)
    x, y = cut_places(profile)
    figures = [
        _explorer(profile, start),
        row([figure(plane_drawing(profile, x[start], y[start]), _PLANE), lines], columns=2),
        row(_maps(places, start), columns=3),
        data(
            "profile",
            {
                "thetas": thetas,
                "elements": [place["elements"] for place in places.values()],
                "places": list(places),
                **{
                    key: [place[key] for place in places.values()]
                    for key in ("s1_only", "s2_only", "shared")
                },
                "most": _most(places),
                "cut_x": x,
                "cut_y": y,
                "rule": rule,
            },
        ),
    ]
    return Block("At any theta", words, figures=figures, under=True)


def _explorer(profile: Mapping[str, Any], k: int) -> Html:
    """The slider, and the numbers that it changes."""
    sums = _totals(profile["places"], k)
    total = sum(sums.values())
    one, two, shared = sums["s1_only"], sums["s2_only"], sums["shared"]
    told = {
        "kept-1": percent((one + shared) / total),
        "kept-2": percent((two + shared) / total),
        **{key: percent(sums[key] / total) for key, _, _ in REGIONS},
        "jaccard": f"{shared / max(1, one + two + shared):.3f}",
    }
    names = {
        "kept-1": "kept for System 1",
        "kept-2": "kept for System 2",
        **{key: name for key, name, _ in REGIONS},
        "jaccard": "Jaccard overlap",
    }
    looks = {key: f'<i class="swatch {look}"></i>' for key, _, look in REGIONS}
    values = "".join(
        f"<div><dt>{looks.get(key, '')}{names[key]}</dt>"
        f'<dd><output data-told="{key}">{value}</output></dd></div>'
        for key, value in told.items()
    )
    theta = f"{profile['thetas'][k]:g}"
    return Html(
        '<div class="explorer wide"><label for="theta">theta '
        f'<output id="theta-told">{theta}</output></label>'
        f'<input id="theta" type="range" min="0" max="{len(profile["thetas"]) - 1}" step="1" '
        f'value="{k}" aria-valuetext="{theta}" hidden>'
        f'{_bar(sums, total)}<dl class="told" aria-live="polite">{values}</dl></div>'
    )


def _bar(sums: Mapping[str, int], total: int) -> str:
    x, parts = 0.0, []
    for key, name, look in REGIONS:
        wide = 100 * sums[key] / total
        parts.append(
            f'<rect class="{look} solid" data-bar="{key}" x="{x:.3f}" y="0" width="{wide:.3f}" '
            f'height="4"><title>{name}</title></rect>'
        )
        x += wide
    return (
        '<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" '
        f'aria-label="The regions as parts of all elements">{"".join(parts)}</svg>'
    )


def _totals(places: Mapping[str, Any], k: int) -> dict[str, int]:
    """Region -> its elements at the k-th theta, in all places."""
    found = {
        key: sum(place[key][k] for place in places.values())
        for key in ("s1_only", "s2_only", "shared")
    }
    elements = sum(place["elements"] for place in places.values())
    return {**found, "rest": elements - sum(found.values())}


def _growth(
    recipe: Mapping[str, Any], profile: Mapping[str, Any], start: int
) -> tuple[Html, list[float]]:
    """Shares over theta, and where the rule of each theta stands."""
    thetas = profile["thetas"]
    sums = [_totals(profile["places"], k) for k in range(len(thetas))]
    total = sum(sums[0].values())
    series = [
        Series(
            f"kept for System {system}",
            thetas,
            [(at[own] + at["shared"]) / total for at in sums],
            look=look,
        )
        for system, own, look in ((1, "s1_only", "one"), (2, "s2_only", "two"))
    ]
    series.append(
        Series("kept for both", thetas, [at["shared"] / total for at in sums], look="shared")
    )
    modules = recipe["lora"]["modules"]
    paper = ACTIVE_BY_THETA.get(modules if isinstance(modules, str) else "")
    if paper:
        name = f"the paper, System 1, {modules}: LLaMA-2-7B on GSM8K"
        series.append(Series(name, list(paper), list(paper.values()), look="paper", marks=True))
    x = Axis(0.0, 1.0, 46, WIDTH - 12)
    rule = [round(x.at(theta), 1) for theta in thetas]
    top = top_of(series)
    drawn = line(
        series,
        label="Share of elements kept, over theta",
        x_label="theta",
        y_label="share of elements",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        shares=True,
        tall=TALL,
        over=f'<path id="rule" class="cut" d="M{rule[start]} {top}V{top + TALL}"/>',
    )
    return figure(drawn, "Share of elements that carry theta of a system's importance."), rule


def _maps(places: Mapping[str, Any], start: int) -> list[Html]:
    """A map of layers and modules for each region that is kept."""
    layers, modules = _layers_and_modules(places)
    if not layers:
        return []
    order = {place: k for k, place in enumerate(places)}
    most = _most(places)
    drawn = []
    for key, name, look in REGIONS[:3]:
        cells = [
            [_cell(places, order, f"{layer}.{module}", key, start) for layer in layers]
            for module in modules
        ]
        chart = heat(
            [str(layer) for layer in layers],
            modules,
            cells,
            label=f"{name}: share of the elements of each layer and module",
            x_label="layer",
            look=look,
            most=most[key],
        )
        drawn.append(figure(chart, f"{name}: share of each layer's and module's elements."))
    return drawn


def _cell(
    places: Mapping[str, Any], order: Mapping[str, int], place: str, key: str, k: int
) -> Cell | None:
    if place not in places:
        return None
    share = places[place][key][k] / places[place]["elements"]
    told = f"{place}: {percent(share)}"
    return Cell(share, told, f'data-place="{order[place]}" data-region="{html.escape(key)}"')


def _most(places: Mapping[str, Any]) -> dict[str, float]:
    """Region -> the largest share of any place at any theta, so that colours can be compared."""
    return {
        key: round(max(max(p[key]) / p["elements"] for p in places.values()), 4)
        for key in ("s1_only", "s2_only", "shared")
    }


def _layers_and_modules(places: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """Those that a place names by `layer.module`; modules in the order of a layer's computation."""
    split = [place.partition(".") for place in places]
    found = [(int(layer), module) for layer, _, module in split if layer.isdecimal() and module]
    known: Sequence[str] = list(MODULE_LETTERS.values())
    modules = sorted(
        {module for _, module in found},
        key=lambda name: (known.index(name) if name in known else len(known), name),
    )
    return sorted({layer for layer, _ in found}), modules
