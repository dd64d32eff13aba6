"""The report in a real browser: it runs under its own policy, calls nobody, and its slider moves.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from chromium import Browser, browsing
from tiny_report import HOSTILE, report
from tiny_sweep import Swept

from lorapar_core.report_run import with_run
from lorapar_core.sweep_run import with_sweep

pytestmark = pytest.mark.skipif(chromium.found() is None, reason="no Chromium on this machine")
REGIONS = ("s1_only", "s2_only", "shared", "rest")
TAKEN = {
    "stages": [{"name": HOSTILE, "action": "computed", "seconds": 1.5, "went_on": 0}],
    "votes": [],
    "machines": [{"processor": HOSTILE, "libraries": {"torch": HOSTILE}}],
    "commits": [],
    "artifacts": {HOSTILE: "0" * 64},
}


SWEEP_TAKEN = {
    "training": [
        {"point": HOSTILE, "stage": "sft", "trials": 2, "went_on": 0, "peak_bytes": 2**30}
    ],
    "stages": [
        {"stage": "moments", "asked": 152, "computed": 16, "seconds": 44.4, "peak_bytes": 2**30}
    ],
    "machines": [{"processor": HOSTILE, "libraries": {"torch": HOSTILE}}],
    "commits": [],
    "recipe": {"trial": HOSTILE, "sections": {"name": HOSTILE}},
    "reports": {HOSTILE: "0" * 64},
    "artifacts": [(HOSTILE, "sft/adapter", "0" * 64)],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium.found()
    assert program
    with browsing(program, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's page in which every text of others is hostile."""
    folder = tmp_path_factory.mktemp("report")
    out = report(folder / "run", text=HOSTILE, partition={"theta": 0.7})
    html = with_run((out / "report.html").read_text(), TAKEN, command=f"lorapar run {HOSTILE}")
    (folder / "page.html").write_text(html)
    return folder / "page.html"


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's page, likewise."""
    folder = tmp_path_factory.mktemp("sweep")
    swept = Swept(folder, "shared", seeds=(0, 1))
    swept.fill({label: 0.1 + k / 12 for k, label in enumerate(swept.labels)})
    swept.train().show(HOSTILE, partition={"theta": 0.7}).compare()
    html = (folder / "out" / "report.html").read_text()
    page = folder / "page.html"
    page.write_text(with_sweep(html, SWEEP_TAKEN, command=f"lorapar sweep shared {HOSTILE}"))
    return page


@pytest.fixture(params=["page", "sweep_page"])
def either(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def numbers(browser: Browser) -> dict[str, str]:
    """What the page tells beside the slider."""
    told = browser.value(
        "JSON.stringify(Object.fromEntries([...document.querySelectorAll('[data-told]')]"
        ".map(e => [e.dataset.told, e.textContent])))"
    )
    found: dict[str, str] = json.loads(told)
    return found


def widths(browser: Browser) -> dict[str, float]:
    """Of the plane's windows."""
    names = ("s1", "s2", "shared", "rest")
    return {
        name: browser.value(
            f"Number(document.getElementById('window-{name}').getAttribute('width'))"
        )
        for name in names
    }


def test_the_slider_changes_the_numbers_and_the_drawings(browser: Browser, either: Path) -> None:
    (told,) = either.parent.glob("*/profile/profile.json")
    profile = json.loads(told.read_text())
    browser.open(either)
    before, windows = numbers(browser), widths(browser)
    cell = "document.querySelector('[data-place][data-region=shared]')"
    shade = f"Number({cell}.getAttribute('fill-opacity'))"
    shaded = browser.value(shade)
    assert browser.value("document.getElementById('theta-told').textContent") == "0.7"
    browser.value("document.getElementById('theta').focus()")
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    theta = browser.value("document.getElementById('theta-told').textContent")
    assert theta == "0.65"
    k = profile["thetas"].index(0.65)
    places = profile["places"].values()
    total = sum(place["elements"] for place in places)
    sums = {key: sum(p[key][k] for p in places) for key in REGIONS[:3]}
    sums["rest"] = total - sum(sums.values())
    after = numbers(browser)
    assert after != before
    for key in REGIONS:
        assert after[key] == f"{100 * sums[key] / total:.1f} %"
    assert after["kept-1"] == f"{100 * (sums['s1_only'] + sums['shared']) / total:.1f} %"
    union = total - sums["rest"]
    assert after["jaccard"] == f"{sums['shared'] / union:.3f}"
    moved = widths(browser)
    assert moved["rest"] > windows["rest"], "a smaller theta cuts at a larger importance"
    assert moved["rest"] == moved["s2"]
    assert browser.value(shade) < shaded
    first = profile["places"]["0.q_proj"]
    share = 100 * first["shared"][k] / first["elements"]
    assert browser.value(f"{cell}.textContent") == f"0.q_proj: {share:.1f} %"
    browser.press("End")
    assert numbers(browser)["shared"] == "100.0 %"
    assert browser.value("document.getElementById('theta').getAttribute('aria-valuetext')") == "1"
    browser.press("Home")
    assert browser.value("document.getElementById('theta-told').textContent") == "0.025"


def test_moved_back_the_page_is_as_it_was(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = (numbers(browser), widths(browser))
    browser.value("document.getElementById('theta').focus()")
    for key in ("ArrowRight", "ArrowLeft"):
        browser.press(key)
    numbers_after, widths_after = numbers(browser), widths(browser)
    assert numbers_after == before[0]
    assert widths_after == pytest.approx(before[1], abs=0.1)


def test_it_calls_nobody_and_breaks_no_rule_of_its_policy(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.value("document.getElementById('theta').focus()")
    browser.press("ArrowLeft")
    requests = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert set(requests) == {page.as_uri()}
    assert not browser.seen("Runtime.exceptionThrown")
    assert not browser.seen("Page.javascriptDialogOpening")
    complaints = [event["entry"]["text"] for event in browser.seen("Log.entryAdded")]
    assert not complaints
    assert browser.value("getComputedStyle(document.querySelector('.told')).display") == "grid"


def test_a_sweeps_page_calls_nobody_and_is_drawn(browser: Browser, sweep_page: Path) -> None:
    browser.open(sweep_page)
    requests = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert set(requests) == {sweep_page.as_uri()}
    assert not browser.seen("Page.javascriptDialogOpening")
    assert not browser.seen("Runtime.exceptionThrown")
    assert not browser.seen("Log.entryAdded")
    drawn = 2 + 3 * 2 + 2 + 3  # points, claims; training, nine points; plane and shares; maps
    assert browser.value("document.querySelectorAll('figure svg').length") == drawn
    beyond = (
        "[...document.querySelectorAll('svg text')].filter(t => {const b = t.getBBox(), "
        "s = t.ownerSVGElement.viewBox.baseVal; return b.x < 0 || b.x + b.width > s.width})"
        ".map(t => t.textContent).join()"
    )
    assert browser.value(beyond) == ""


def test_a_script_that_slipped_in_would_not_run(browser: Browser, page: Path) -> None:
    """Were something not escaped after all."""
    text = page.read_text().replace("<h1>", "<script>window.slipped = 1</script><h1>", 1)
    text = text.replace("</h1>", "</h1><img src='http://127.0.0.1:9/x' onerror='slipped = 1'>", 1)
    changed = page.with_name("changed.html")
    changed.write_text(text)
    browser.open(changed)
    assert browser.value("window.slipped === undefined")
    complaints = [event["entry"]["text"] for event in browser.seen("Log.entryAdded")]
    assert any("Content Security Policy" in text for text in complaints)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_stands_beyond_the_page(browser: Browser, either: Path, width: int) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.open(either)
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_light_and_dark_differ_and_can_be_read(browser: Browser, either: Path) -> None:
    """WCAG's contrast of text, at least 4.5."""
    for theme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": theme}
        browser.call("Emulation.setEmulatedMedia", features=[feature])
        browser.open(either)
        paper = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (luminance(paper) > 0.5) is (theme == "light")
        header = ["header p"] if either.parent.name.startswith("report") else []
        for part in (*header, "body", ".facts dt", "figcaption", "th", "nav a"):
            ink = browser.value(f"getComputedStyle(document.querySelector('{part}')).color")
            high, low = sorted((luminance(ink), luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, part)


def test_on_paper_it_is_light(browser: Browser, page: Path) -> None:
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    browser.open(page)
    try:
        assert luminance(browser.value("getComputedStyle(document.body).backgroundColor")) > 0.5
        assert luminance(browser.value("getComputedStyle(document.body).color")) < 0.1
        shown = browser.value("getComputedStyle(document.getElementById('theta')).display")
        assert shown == "none", "a slider can't be moved there"
    finally:
        browser.call("Emulation.setEmulatedMedia", media="", features=[])


def luminance(color: str) -> float:
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_scripts_the_page_shows_the_runs_theta(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        document = browser.call("DOM.getDocument", depth=-1)
        slider = browser.call(
            "DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#theta[hidden]"
        )
        assert slider["nodeId"], "what nobody can move isn't shown"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_regions_have_the_colours_of_the_papers_figure(
    browser: Browser, page: Path, scheme: str
) -> None:
    """S1 only red, S2 only blue, shared purple."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=media)
    browser.open(page)
    shade = "getComputedStyle(document.querySelector('.{}')).color"
    found = {
        name: tuple(map(int, re.findall(r"\d+", browser.value(shade.format(name)))))
        for name in ("one", "two", "shared")
    }
    red, green, blue = found["one"]
    assert red > max(green, blue) + 60
    red, green, blue = found["two"]
    assert blue > red + 60
    red, green, blue = found["shared"]
    assert min(red, blue) > green + 30


def test_a_long_table_is_opened_by_hand(browser: Browser, sweep_page: Path) -> None:
    browser.open(sweep_page)
    tall = "document.querySelector('details').getBoundingClientRect().height"
    closed = browser.value(tall)
    browser.value("document.querySelector('details summary').click()")
    assert browser.value(tall) > closed + 20
