"""A sweep's page draws training by point, and one trial's regions and labels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_report import HOSTILE
from tiny_sweep import Swept

from lorapar_core.sweep_curves import MOST_PLACES, curve_blocks


def steps(values: list[float], key: str = "loss") -> list[dict[str, float]]:
    return [{"step": k + 1, key: value} for k, value in enumerate(values)]


def test_the_mean_over_seeds_is_told_at_its_ends() -> None:
    curves = {("a", "sft"): [steps([4.0, 3.0, 2.0]), steps([2.0, 1.0, 0.0])]}
    (block,) = curve_blocks(curves)
    assert block.rows == [["a", "sft", "loss", "3", "3", "1", "2"]]


def test_a_stage_with_a_reward_is_told_by_loss_and_reward() -> None:
    grpo = [{"step": 1, "loss": 0.5, "reward": 0.0}, {"step": 2, "loss": 0.25, "reward": 2.0}]
    (block,) = curve_blocks({("a", "sft"): [steps([1.0])], ("a", "grpo"): [grpo]})
    assert [row[1:6] for row in block.rows] == [
        ["sft", "loss", "1", "1", "1"],
        ["grpo", "loss", "2", "0.5", "0.25"],
        ["grpo", "reward", "2", "0", "2"],
    ]
    assert len(block.figures) == 3


def test_steps_that_a_seed_lacks_count_for_none() -> None:
    (block,) = curve_blocks({("a", "sft"): [steps([4.0, 3.0, 2.0]), steps([2.0])]})
    assert block.rows == [["a", "sft", "loss", "1", "3", "3", "2"]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_left_out(bad: float) -> None:
    (block,) = curve_blocks({("a", "sft"): [steps([bad, 3.0, 2.0])]})
    assert block.rows == [["a", "sft", "loss", "2", "3", "2", "1"]]
    assert "nan" not in block.figures[0]


def test_a_point_without_figures_has_a_row_that_says_so() -> None:
    curves = {("a", "sft"): [steps([1.0])], ("b", "sft"): [[], steps([1.0])]}
    (block,) = curve_blocks(curves)
    assert block.rows[1] == ["b", "sft", "loss", "0", "–", "–", "2"]
    assert len(block.figures) == 1


def test_charts_share_the_lines_and_have_the_same_axes() -> None:
    curves = {(f"p{k}", "sft"): [steps([float(k), 2.0 * k])] for k in range(7)}
    (block,) = curve_blocks(curves)
    first, second = block.figures
    assert [f"p{k}" in first for k in range(7)] == [True] * 3 + [False] * 4
    assert [f"p{k}" in second for k in range(7)] == [False] * 3 + [True] * 4
    ticks = [re.findall(r'text-anchor="end">([^<]+)<', drawn) for drawn in block.figures]
    assert ticks[0] == ticks[1]
    assert len(ticks[0]) > 2


def test_a_long_line_is_told_by_means() -> None:
    (block,) = curve_blocks({("a", "sft"): [steps([float(k) for k in range(600)])]})
    path = re.search(r'class="a line" d="M([^"]+)"', block.figures[0])
    assert path
    assert path[1].count("L") + 1 == MOST_PLACES
    assert "band" not in block.figures[0]


def test_nothing_trained_nothing_told() -> None:
    assert curve_blocks({}) == []


def test_the_page_holds_curves_and_a_trials_regions_and_labels(tmp_path: Path) -> None:
    swept = Swept(tmp_path, "order", seeds=(0, 1)).fill({"SFT then RL": 0.5, "RL then SFT": 0.4})
    swept.train().show(HOSTILE, partition={"theta": 0.7}).compare()
    page = (tmp_path / "out" / "report.html").read_text()
    for part in ("Training", "One trial&#x27;s regions and labels", "At any theta", "Labels"):
        assert re.search(rf"<h[23]>{re.escape(part)}</h[23]>", page), part
    assert page.count('id="theta"') == 1
    assert "<img onerror" not in page
    assert "| RL then SFT | grpo | reward | 3 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("gone", [("profile",), ("regions", "profile"), ("agreement",)])
def test_a_trial_is_shown_as_far_as_it_goes(tmp_path: Path, gone: tuple[str, ...]) -> None:
    swept = Swept(tmp_path, "order", seeds=(0,)).fill({"SFT then RL": 0.5, "RL then SFT": 0.4})
    swept.show()
    for role in gone:
        del swept.inputs[f"exhibit/{role}"]
    swept.compare()
    page = (tmp_path / "out" / "report.html").read_text()
    assert ('id="theta"' in page) == ("profile" not in gone)
    assert ("<h3>Regions</h3>" in page) == ("regions" not in gone)
    assert ("<h3>Labels</h3>" in page) == ("agreement" not in gone)
