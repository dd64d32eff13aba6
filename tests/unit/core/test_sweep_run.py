"""What a sweep took is told on its page: training by point, and what trials had in common."""

from __future__ import annotations

from typing import Any

from tiny_report import HOSTILE

from lorapar_core.report_page import as_html
from lorapar_core.report_run import place_for_run
from lorapar_core.sweep_run import sweep_blocks, with_sweep

TRAINED = {
    "point": "theta 0.9",
    "stage": "sft",
    "trials": 3,
    "went_on": 0,
    "seconds": 12.25,
    "tokens_per_second": 910.4,
    "peak_bytes": 512 * 2**20,
    "elements": 1000,
    "active_elements": 250,
    "optimizer_bytes": 2**20,
}
SHARED = {
    "stage": "moments",
    "asked": 152,
    "computed": 16,
    "seconds": 44.44,
    "peak_bytes": 512 * 2**20,
}


def taken(**parts: Any) -> dict[str, Any]:
    empty = {
        "machines": [],
        "commits": [],
        "recipe": {"trial": "theta 0.9, seed 0", "sections": {"name": "lab"}},
        "reports": {"theta 0.9, seed 0": "0" * 64},
        "artifacts": [("theta 0.9, seed 0", "sft/adapter", "1" * 64)],
    }
    return {**empty, "training": [TRAINED], "stages": [SHARED], **parts}


def test_training_is_told_by_point_and_stages_by_how_often_they_were_computed() -> None:
    training, stages, _, recipe, reports, artifacts = sweep_blocks(taken(), command="")
    assert training.rows == [
        ["theta 0.9", "sft", "3", "12.2", "910", "512", "250 (25.0 %)", "1.00"]
    ]
    assert stages.rows == [["moments", "152", "16", "44.4", "512"]]
    assert recipe.rows == [["name", '"lab"']]
    assert recipe.words.startswith("That of theta 0.9, seed 0;")
    assert reports.rows == [["theta 0.9, seed 0", "0" * 64]]
    assert artifacts.rows == [("theta 0.9, seed 0", "sft/adapter", "1" * 64)]
    assert artifacts.folded


def test_trials_that_went_on_and_unknown_times_are_called_so() -> None:
    some = [TRAINED | {"went_on": 2}]
    (training, stages, *_) = sweep_blocks(
        taken(training=some, stages=[SHARED | {"seconds": None, "peak_bytes": None}]), command=""
    )
    assert training.rows[0][1] == "sft, 2 went on"
    assert stages.rows == [["moments", "152", "16", "–", "–"]]


def test_what_no_record_tells_is_a_dash_and_a_gpu_has_a_column() -> None:
    bare = {name: TRAINED[name] for name in ("point", "stage", "trials", "went_on")}
    (training, *_) = sweep_blocks(taken(training=[bare]), command="")
    assert training.rows == [["theta 0.9", "sft", "3", *["–"] * 5]]
    (training, *_) = sweep_blocks(taken(training=[bare | {"peak_gpu_bytes": 2**21}]), command="")
    assert "GPU peak MiB" in training.header
    assert len(training.rows[0]) == len(training.header)


def test_the_page_is_filled_and_others_words_stay_words() -> None:
    hostile = taken(training=[TRAINED | {"point": HOSTILE}])
    page = as_html("t", [place_for_run()])
    filled = with_sweep(page, hostile, command=f"lorapar sweep theta {HOSTILE}")
    assert "theta 0.9" not in page
    assert "lorapar sweep theta" in filled
    assert HOSTILE not in filled
    assert "<script>alert" not in filled
