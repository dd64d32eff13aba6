"""Charts: what is drawn stays in its frame, ticks are round, and no text of others is markup."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.report_charts import (
    LONGEST_NAME,
    MOST_POINTS,
    WIDTH,
    Axis,
    Cell,
    Interval,
    Series,
    differences,
    finite,
    heat,
    intervals,
    line,
    thinned,
)
from lorapar_core.report_plane import SHADES, plane_drawing

numbers = st.floats(-1e9, 1e9)
HOSTILE = "<script>alert(1)</script>\"'&"


def tree(drawing: str) -> ElementTree.Element:
    """A chart is well-formed, whatever is drawn."""
    return ElementTree.fromstring(drawing)


def places(drawing: str) -> list[tuple[float, float]]:
    """The absolute points of all lines."""
    paths = [path.get("d", "") for path in tree(drawing).iter("path")]
    pairs = [re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path) for path in paths]
    return [(float(x), float(y)) for found in pairs for x, y in found]


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40))
def test_a_line_stays_in_its_frame(points: list[tuple[float, float]]) -> None:
    series = Series("a", [x for x, _ in points], [y for _, y in points])
    drawing = line([series], label="l", x_label="x", y_label="y")
    height = float(tree(drawing).get("viewBox", "").split()[3])
    assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in places(drawing))


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan], [5.0], [2.0, 2.0]])
def test_a_line_of_next_to_nothing_is_drawn(values: list[float]) -> None:
    series = Series("a", list(range(len(values))), values, values, values)
    drawing = line([series], label="l", x_label="x", y_label="y")
    assert "nan" not in drawing
    assert "inf" not in drawing
    tree(drawing)


@given(numbers, numbers, st.integers(2, 9))
def test_ticks_are_round_and_within_the_axis(one: float, two: float, about: int) -> None:
    low, high = sorted((one, two))
    ticks = Axis(low, high, 0, 100).ticks(about)
    wide = high - low
    assert all(low - 1e-6 * wide <= tick <= high + 1e-6 * wide for tick in ticks)
    if wide > 1e-3:
        assert 1 <= len(ticks) <= about + 1
        digits = 9 - math.floor(math.log10(wide))
        steps = {round(after - before, digits) for before, after in pairwise(ticks)}
        for step in steps:
            first = f"{step:.0e}"[0]
            assert first in "125"


def test_an_axis_puts_what_is_beyond_it_at_its_ends() -> None:
    axis = Axis(0, 10, 50, 150)
    assert [axis.at(value) for value in (-5, 0, 5, 10, math.inf, -math.inf)] == [
        *(50, 50, 100, 150),
        *(150, 50),
    ]


def test_a_long_line_is_told_by_means_and_range() -> None:
    count = 10 * MOST_POINTS + 3
    series = Series("a", range(count), [k % 10 for k in range(count)])
    drawn = thinned(series)
    assert len(drawn.x) <= MOST_POINTS
    assert set(drawn.low[:-1]) == {0}
    assert set(drawn.high[:-1]) == {9}
    ends = zip(drawn.low, drawn.y, drawn.high, strict=True)
    assert all(low <= mean <= high for low, mean, high in ends)
    short = Series("a", [1.0, 2.0], [1.0, 2.0])
    assert thinned(short) == short


def test_points_that_are_no_numbers_go_with_their_ends() -> None:
    series = Series("a", [1, 2, 3], [1.0, math.nan, 3.0], [0.0, 1.0, 2.0], [2.0, 3.0, math.inf])
    assert finite(series) == Series("a", (1,), (1.0,), (0.0,), (2.0,))


def test_a_legend_names_several_lines_and_not_one() -> None:
    one, two = (Series(name, [0, 1], [0, 1]) for name in ("first", "second"))
    several = line([one, two], label="l", x_label="x", y_label="y")
    assert "first" in several
    assert "second" in several
    assert "first" not in line([one], label="l", x_label="x", y_label="y")


def test_whiskers_reach_from_low_to_high() -> None:
    drawing = line(
        [Series("a", [0.0, 1.0], [0.5, 0.5], [0.25, 0.5], [1.0, 0.5], marks=True)],
        label="l",
        x_label="x",
        y_label="y",
        y_range=(0.0, 1.0),
        tall=100,
    )
    assert re.search(r'class="a line" d="M46.0 20.0V95.0"', drawing)


def test_intervals_show_value_ends_and_reference() -> None:
    rows = [Interval("sft", 0.25, 0.2, 0.3, reference=0.4), Interval("grpo", 0.5, 0.4, 0.6)]
    found = tree(intervals(rows, label="l", x_label="x"))
    circles = [float(circle.get("cx", "")) for circle in found.iter("circle")]
    assert circles[0] < circles[1]
    assert len([p for p in found.iter("path") if p.get("class") == "paper dot"]) == 1
    assert [text.text for text in found.iter("text") if text.text in ("sft", "grpo")] == [
        "sft",
        "grpo",
    ]


def test_differences_stand_on_their_side_of_0() -> None:
    rows = [
        Interval("up", 0.1, 0.02, 0.18, look="c", reference=0.3),
        Interval("down", -0.1, -0.2, -0.01, look="b"),
        Interval("open", 0.0, -0.1, 0.1, hollow=True),
    ]
    found = tree(differences(rows, label="l", x_label="x"))
    (cut,) = [p.get("d", "") for p in found.iter("path") if p.get("class") == "cut"]
    zero = float(cut[1:].split()[0])
    up, down, neither = (float(circle.get("cx", "")) for circle in found.iter("circle"))
    assert down < zero < up
    assert neither == pytest.approx(zero, abs=0.06)
    lines = [p.get("d", "") for p in found.iter("path") if "line" in p.get("class", "").split()]
    ends = [tuple(map(float, re.findall(r"[MH]([\d.]+)", line))) for line in lines]
    assert zero < ends[0][0] < ends[0][1]
    assert ends[1][0] < ends[1][1] < zero
    assert ends[2][0] < zero < ends[2][1]
    assert len([p for p in found.iter("path") if p.get("class") == "paper dot"]) == 1


@pytest.mark.parametrize("value", [0.0, 0.2, -0.2])
def test_a_difference_alone_is_drawn(value: float) -> None:
    drawn = differences([Interval("one", value, value, value)], label="l", x_label="x")
    assert "nan" not in drawn
    tree(drawn)


def test_a_long_name_has_room_and_a_longer_one_is_cut() -> None:
    drawn = intervals([Interval("n" * 99, 0.5, 0.4, 0.6)], label="l", x_label="x")
    (text,) = [t for t in tree(drawn).iter("text") if (t.text or "").startswith("nn")]
    assert text.text == "n" * (LONGEST_NAME - 1) + "…"
    assert 5 * LONGEST_NAME < float(text.get("x", "")) < WIDTH * 0.6


def test_a_heat_map_is_as_strong_as_its_shares() -> None:
    cells = [[Cell(0.0, "none"), Cell(0.25, "half")], [None, Cell(0.9, "more than most")]]
    found = tree(
        heat(["0", "1"], ["q", "v"], cells, label="l", x_label="layer", look="one", most=0.5)
    )
    drawn = [rect for rect in found.iter("rect") if rect.find("title") is not None]
    assert [rect.get("fill-opacity") for rect in drawn] == ["0.000", "0.500", "1.000"]
    assert [rect.findtext("title") for rect in drawn] == ["none", "half", "more than most"]


def test_a_heat_map_of_many_layers_stays_in_its_frame() -> None:
    layers = [str(k) for k in range(126)]
    cells = [[Cell(0.5, "c") for _ in layers]]
    found = tree(heat(layers, ["q"], cells, label="l", x_label="layer", look="one", most=1.0))
    assert all(
        float(rect.get("x", "")) + float(rect.get("width", "")) <= WIDTH
        for rect in found.iter("rect")
    )


def test_what_others_wrote_is_text() -> None:
    for drawing in (
        line(
            [Series(HOSTILE, [0], [0]), Series("b", [0], [0])],
            label=HOSTILE,
            x_label=HOSTILE,
            y_label=HOSTILE,
        ),
        intervals([Interval(HOSTILE, 0.5, 0.4, 0.6)], label=HOSTILE, x_label=HOSTILE),
        heat(
            [HOSTILE],
            [HOSTILE],
            [[Cell(1, HOSTILE)]],
            label=HOSTILE,
            x_label=HOSTILE,
            look="one",
            most=1,
        ),
    ):
        assert "<script" not in drawing
        assert tree(drawing).get("aria-label") == HOSTILE


def plane(counts: list[list[int]]) -> dict[str, object]:
    decades = {"1": [-4, 0], "2": [-6, -1]}
    return {"plane": {"bins": 64, "decades": decades, "counts": counts}}


counted = st.dictionaries(
    st.tuples(st.integers(0, 63), st.integers(0, 63)), st.integers(1, 10**9), min_size=1
)


@given(counted)
def test_every_square_of_the_plane_is_drawn_once(counts: dict[tuple[int, int], int]) -> None:
    rows = [[i, j, count] for (i, j), count in sorted(counts.items())]
    drawing = plane_drawing(plane(rows), 100.0, 200.0)
    drawn = re.findall(r"M(\d+) (\d+)v(\d+)h1v-\d+z", drawing)
    squares = [(int(i), int(j) + k) for i, j, length in drawn for k in range(int(length))]
    assert sorted(squares) == sorted(counts)
    assert len(set(re.findall(r'fill-opacity="([\d.]+)"', drawing))) <= SHADES


def test_the_planes_windows_cover_it_without_overlap() -> None:
    drawing = plane_drawing(plane([[0, 0, 1]]), 100.0, 200.0)
    windows = {
        name: tuple(map(float, found))
        for name, *found in re.findall(
            r'id="window-(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"',
            drawing,
        )
    }
    assert set(windows) == {"s1", "s2", "shared", "rest"}
    area = sum(wide * high for _, _, wide, high in windows.values())
    assert area == pytest.approx((348 - 50) * (312 - 18))
    assert windows["shared"][:2] == (100.0, 18.0), "right of one cut, above the other"
    assert windows["s1"][:2] == (100.0, 200.0)
