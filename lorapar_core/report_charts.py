"""Charts as inline SVG: axes with ticks and labels, colours by CSS class, no script.

A chart is drawn for a width of 360 units and scaled by the page. Colours are classes that the
page's style knows: `one`, `two`, `shared`, `rest` for System 1, System 2, both and neither, and
`a` to `e` for anything else. Values that are no numbers are left out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lorapar_core.report_block import Html

WIDTH = 360
LOOKS = ("a", "b", "c", "d", "e")
LONGEST_NAME = 36
"""Letters of a row's name."""
MOST_POINTS = 300
"""Of a line; a longer one is told by means, and the range that they stand for."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, at the places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value; of one beyond an end, that end."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def ticks(self, about: int = 5) -> list[float]:
        """Round values, about so many: a whole number of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / about
        if not rough > 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or marks alone. `low` and `high` are the ends of a band or of whiskers."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    look: str = "a"
    marks: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a chart draws: both axes, and the names that go with them."""

    x: Axis
    y: Axis
    x_label: str
    y_label: str
    height: float

    def decoration(self, *, x_text: Sequence[str], y_text: Sequence[str]) -> str:
        """Grid, ticks and labels; `x_text` and `y_text` name the axes' ticks."""
        left, bottom = self.x.start, self.y.start
        parts = []
        for value, text in zip(self.y.ticks(), y_text, strict=True):
            y = self.y.at(value)
            parts.append(f'<path class="grid" d="M{left} {y:.1f}H{self.x.end}"/>')
            parts.append(text_at(left - 5, y + 3.5, text, anchor="end"))
        for value, text in zip(self.x.ticks(), x_text, strict=True):
            x = self.x.at(value)
            parts.append(f'<path class="tick" d="M{x:.1f} {bottom}v4"/>')
            parts.append(text_at(x, bottom + 15, text, anchor="middle"))
        parts.append(f'<path class="axis" d="M{left} {self.y.end}V{bottom}H{self.x.end}"/>')
        middle = (self.x.start + self.x.end) / 2
        parts.append(text_at(middle, self.height - 4, self.x_label, anchor="middle", look="name"))
        parts.append(text_at(4, 11, self.y_label, look="name"))
        return "".join(parts)


def number(value: float) -> str:
    """A tick's or a figure's value, briefly: `0.25`, `1.2e-06`."""
    return f"{value + 0.0:.4g}"


def share(value: float) -> str:
    return f"{100 * value:.4g} %"


def text_at(x: float, y: float, text: str, *, anchor: str = "start", look: str = "") -> str:
    named = f' class="{look}"' if look else ""
    shown = html.escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{shown}</text>'


def svg(label: str, height: float, body: str) -> Html:
    """A drawing of `WIDTH` by `height`, with the words that a screen reader says for it."""
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{html.escape(label)}">'
        f"{body}</svg>"
    )


def figure(drawing: Html, caption: str) -> Html:
    """A drawing with a caption under it."""
    return Html(f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>")


def row(figures: Sequence[Html], *, columns: int) -> Html:
    """Figures side by side, in a row of their own; one under the other where it is narrow."""
    return Html(f'<div class="wide row-{columns}">{"".join(figures)}</div>')


def line(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    shares: bool = False,
    tall: float = 160,
    over: str = "",
) -> Html:
    """Lines over numbers, with bands, and a legend where there are several.

    `tall`: the height of what is between the axes; it begins at `top_of(series)`. `shares`: the y
    values are shown in percent. `over` is drawn on top, in the chart's units.
    """
    drawn = [thinned(finite(one)) for one in series]
    top = top_of(drawn)
    height = top + tall + 36
    xs = [v for one in drawn for v in one.x]
    ys = [v for one in drawn for values in (one.y, one.low, one.high) for v in values]
    frame = Frame(
        Axis(*(x_range or span(xs)), 46, WIDTH - 12),
        Axis(*(y_range or span(ys, margin=0.06)), height - 36, top),
        x_label,
        y_label,
        height,
    )
    body = frame.decoration(
        x_text=[number(v) for v in frame.x.ticks()],
        y_text=[(share if shares else number)(v) for v in frame.y.ticks()],
    )
    body += "".join(_drawn(one, frame) for one in drawn)
    body += "".join(
        _key(one, 24 + 14 * k) + text_at(69, 27.5 + 14 * k, one.name)
        for k, one in enumerate(drawn if len(drawn) > 1 else [])
    )
    return svg(label, height, body + over)


def _key(one: Series, y: float) -> str:
    """How the legend shows it."""
    if one.marks:
        return diamond(57, y, look=one.look)
    return f'<path class="{one.look} key" d="M50 {y}h14"/>'


def top_of(series: Sequence[Series]) -> float:
    """Where the drawing begins: under the axis's name, and a legend."""
    return 24 + 14 * len(series) if len(series) > 1 else 20


def _drawn(one: Series, frame: Frame) -> str:
    points = [(frame.x.at(x), frame.y.at(y)) for x, y in zip(one.x, one.y, strict=True)]
    body = ""
    if one.low and not one.marks:
        edge = [(frame.x.at(x), frame.y.at(y)) for x, y in zip(one.x, one.low, strict=True)]
        other = [(frame.x.at(x), frame.y.at(y)) for x, y in zip(one.x, one.high, strict=True)]
        body += f'<path class="{one.look} band" d="{_path([*edge, *other[::-1]])}z"/>'
    if one.marks:
        for k, (x, y) in enumerate(points):
            if one.low:
                top, foot = frame.y.at(one.high[k]), frame.y.at(one.low[k])
                body += f'<path class="{one.look} line" d="M{x:.1f} {top:.1f}V{foot:.1f}"/>'
            body += diamond(x, y, look=one.look)
        return body
    body += f'<path class="{one.look} line" d="{_path(points)}"/>' if len(points) > 1 else ""
    if len(points) <= 12:
        body += "".join(dot(x, y, look=one.look) for x, y in points)
    return body


def dot(x: float, y: float, *, look: str, hollow: bool = False) -> str:
    kind = "hollow" if hollow else "dot"
    return f'<circle class="{look} {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def diamond(x: float, y: float, *, look: str) -> str:
    return f'<path class="{look} dot" d="M{x:.1f} {y - 4:.1f}l4 4-4 4-4-4z"/>'


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def finite(one: Series) -> Series:
    """The series without points that can't be drawn."""
    columns = (one.x, one.y, one.low or one.y, one.high or one.y)
    kept = [row for row in zip(*columns, strict=True) if all(map(math.isfinite, row))]
    x, y, low, high = (tuple(column) for column in zip(*kept, strict=True)) if kept else ((),) * 4
    banded = bool(one.low)
    ends = (low, high) if banded else ((), ())
    return Series(one.name, x, y, *ends, look=one.look, marks=one.marks)


def thinned(one: Series, most: int = MOST_POINTS) -> Series:
    """A line of at most `most` points, each the mean of a run, with the run's range."""
    if one.marks or len(one.x) <= most:
        return one
    size = -(-len(one.x) // most)
    runs = [slice(k, k + size) for k in range(0, len(one.x), size)]
    mean = [[sum(values[r]) / len(values[r]) for r in runs] for values in (one.x, one.y)]
    low = [min((one.low or one.y)[r]) for r in runs]
    high = [max((one.high or one.y)[r]) for r in runs]
    return Series(one.name, mean[0], mean[1], low, high, look=one.look)


def span(values: Sequence[float], *, margin: float = 0.0) -> tuple[float, float]:
    """Least and greatest, with a margin; something around a value that stands alone."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        wide = abs(low) / 2 or 1.0
        return low - wide, high + wide
    wide = margin * (high - low)
    return low - wide, high + wide


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of `intervals`: a value between `low` and `high`, and perhaps another's beside it."""

    name: str
    value: float
    low: float
    high: float
    look: str = "a"
    hollow: bool = False
    reference: float | None = None


def intervals(rows: Sequence[Interval], *, label: str, x_label: str) -> Html:
    """Shares with their intervals, a row each; a diamond marks a reference value."""
    height = 20 * len(rows) + 44
    names = [_short(one.name) for one in rows]
    left = max(120.0, *(8 + 5.3 * len(name) for name in names), 0.0)
    most = max([one.high for one in rows] + [one.reference or 0.0 for one in rows])
    right = min(1.0, math.ceil(most * 10 + 0.2) / 10)
    x = Axis(0.0, right, left + 8, WIDTH - 20)
    body = _below(x, 6, height - 34, share)
    for k, (name, one) in enumerate(zip(names, rows, strict=True)):
        y = 16.0 + 20 * k
        body += text_at(left, y + 3.5, name, anchor="end") + _across(one, x, y)
    middle = (x.start + x.end) / 2
    body += text_at(middle, height - 4, x_label, anchor="middle", look="name")
    return svg(label, height, body)


def differences(rows: Sequence[Interval], *, label: str, x_label: str) -> Html:
    """Differences of shares, in percentage points, with their intervals about 0: a name and under
    it its interval; a diamond marks a reference value."""
    height = 30 * len(rows) + 42
    ends = [v for one in rows for v in (one.low, one.high, one.value, one.reference or 0.0)]
    x = Axis(*span([0.0, *ends], margin=0.04), 12, WIDTH - 12)
    bottom = height - 34
    body = _below(x, 6, bottom, lambda value: f"{100 * value:+.4g}")
    body += f'<path class="cut" d="M{x.at(0.0):.1f} 6V{bottom}"/>'
    for k, one in enumerate(rows):
        y = 28.0 + 30 * k
        body += text_at(12, y - 9, one.name, look="over") + _across(one, x, y)
    body += text_at(WIDTH / 2, height - 4, x_label, anchor="middle", look="name")
    return svg(label, height, body)


def _short(name: str) -> str:
    """A name that leaves half of the drawing free."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _below(x: Axis, top: float, bottom: float, text: Callable[[float], str]) -> str:
    """The ticks of an axis, with lines through the drawing."""
    return "".join(
        f'<path class="grid" d="M{x.at(value):.1f} {top}V{bottom}"/>'
        + text_at(x.at(value), bottom + 14, text(value), anchor="middle")
        for value in x.ticks()
    )


def _across(one: Interval, x: Axis, y: float) -> str:
    """An interval with its value, and the reference."""
    body = f'<path class="{one.look} line" d="M{x.at(one.low):.1f} {y:g}H{x.at(one.high):.1f}"/>'
    body += dot(x.at(one.value), y, look=one.look, hollow=one.hollow)
    if one.reference is not None:
        body += diamond(x.at(one.reference), y, look="paper")
    return body


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of `heat`: its share, what a reader is told of it, and attributes for a script."""

    share: float
    told: str
    attributes: str = ""


def heat(
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[Cell | None]],
    *,
    label: str,
    x_label: str,
    look: str,
    most: float,
) -> Html:
    """Cells as strong as their share of `most`, a row a list, with a legend; None leaves a gap.

    `columns` and `rows` name them; where columns are narrow every few are named.
    """
    left, top = 70.0, 26.0
    wide = min(34.0, (WIDTH - left - 6) / max(1, len(columns)))
    high = min(18.0, max(12.0, wide))
    every = max(1, math.ceil(18 / wide))
    height = top + high * len(rows) + 34
    body = ""
    for r, (name, line_of) in enumerate(zip(rows, cells, strict=True)):
        y = top + high * r
        body += text_at(left - 5, y + high / 2 + 3.5, name, anchor="end")
        for c, cell in enumerate(line_of):
            if cell is not None:
                strength = min(1.0, cell.share / (most or 1.0))
                body += (
                    f'<rect class="{look} cell" x="{left + wide * c:.2f}" y="{y:.1f}" '
                    f'width="{wide - 0.6:.2f}" height="{high - 0.6:.1f}" '
                    f'fill-opacity="{strength:.3f}" {cell.attributes}>'
                    f"<title>{html.escape(cell.told)}</title></rect>"
                )
    for c in range(0, len(columns), every):
        body += text_at(left + wide * (c + 0.5), height - 20, columns[c], anchor="middle")
    body += text_at(left, height - 4, x_label, look="name")
    body += _scale(look, most)
    return svg(label, height, body)


def _scale(look: str, most: float) -> str:
    """What the strengths of a heat map mean."""
    steps = "".join(
        f'<rect class="{look} cell" x="{WIDTH - 126 + 8 * k}" y="4" width="8" height="9" '
        f'fill-opacity="{(k + 1) / 8:.3f}"/>'
        for k in range(8)
    )
    foot = text_at(WIDTH - 130, 12, "0", anchor="end")
    return steps + foot + text_at(WIDTH - 58, 12, f"{100 * most:.3g} %")
