"""What a run took is told on its page, and only there; unknown figures are called so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tiny_report import HOSTILE, report

from lorapar_core.report_block import Block
from lorapar_core.report_page import as_html, filled
from lorapar_core.report_run import place_for_run, run_blocks, with_run

STAGE = {"name": "sft", "action": "computed", "seconds": 1234.56, "went_on": 0}
TRAINED = {
    **STAGE,
    "went_on": 2,
    "tokens_per_second": 910.4,
    "peak_bytes": 512 * 2**20,
    "elements": 1000,
    "active_elements": 250,
    "optimizer_bytes": 2**20,
}
VOTES = {
    "teacher": "mini",
    "votes": 9,
    "requests": 10,
    "prompt_tokens": 4000,
    "completion_tokens": 100,
    "usd": 0.5,
    "unpriced": 0,
}


def taken(**parts: Any) -> dict[str, Any]:
    empty = {"stages": [], "votes": [], "machines": [], "commits": [], "artifacts": {}}
    return {**empty, **parts}


def rows(blocks: list[Block], title: str) -> list[list[str]]:
    return [list(row) for block in blocks if block.title == title for row in block.rows]


def test_a_stages_footprint_is_told_and_what_is_unknown_is_a_dash() -> None:
    blocks = run_blocks(taken(stages=[STAGE, TRAINED]), command="")
    plain, trained = rows(blocks, "What it took")
    assert plain == ["sft", "computed", "1,234.6", "–", "–", "–", "–", "–"]
    assert trained == [
        *("sft", "computed, went on 2 times", "1,234.6", "910", "512", "250 (25.0 %)"),
        *("1.00", "0.01"),
    ]


def test_a_gpu_has_a_column_where_one_was_used() -> None:
    for peak, expected in (({}, False), ({"peak_gpu_bytes": 3 * 2**20}, True)):
        (block, *_) = run_blocks(taken(stages=[STAGE | peak]), command="")
        assert ("GPU peak MiB" in block.header) is expected
        assert all(len(row) == len(block.header) for row in block.rows)


def test_what_votes_cost_is_told_with_what_nobody_knows() -> None:
    some = {**VOTES, "teacher": "other", "unpriced": 3}
    none = {**VOTES, "teacher": "own", "unpriced": 10, "usd": 0.0}
    blocks = run_blocks(taken(votes=[VOTES, some, none]), command="")
    assert [row[-1] for row in rows(blocks, "What the votes cost")] == [
        "0.5000",
        "at least 0.5000",
        "unknown",
    ]
    (words,) = [block.words for block in blocks if block.title == "What the votes cost"]
    assert words.startswith("27 votes came from requests, for $1.0000 and whatever 13 requests")
    assert not rows(run_blocks(taken(), command=""), "What the votes cost")


def test_the_command_is_told_and_a_file_is_called_one() -> None:
    for command, expected in (
        ("lorapar run demo", False),
        ("lorapar run my.yaml --set a.b=1", True),
        ("lorapar sweep theta my.yaml --seeds 0", True),
        ("lorapar sweep theta lab --set data.source=x.yaml", False),
    ):
        (again,) = [b for b in run_blocks(taken(), command=command) if b.title == "Again"]
        assert command in "".join(again.figures)
        assert ("is a file of whoever ran it" in again.words) is expected
    (again,) = [b for b in run_blocks(taken(), command="") if b.title == "Again"]
    assert not again.figures
    assert not again.words


def test_every_artifact_is_named_with_its_digest() -> None:
    blocks = run_blocks(taken(artifacts={"sft/adapter": "a" * 64}), command="")
    assert rows(blocks, "Every artifact") == [["sft/adapter", "a" * 64]]


def test_a_page_is_filled_once_and_keeps_everything_else(tmp_path: Path) -> None:
    page = (report(tmp_path / "run", text=HOSTILE) / "report.html").read_text()
    told = taken(stages=[{**STAGE, "name": HOSTILE}])
    whole = with_run(page, told, command=HOSTILE)
    assert "1,234.6" in whole
    assert "1,234.6" not in page
    before, _, rest = page.partition("<!--run-->")
    after = rest.partition("<!--/run-->")[2]
    assert whole.startswith(before)
    assert whole.endswith(after)
    assert len(re.findall("<script", whole)) == len(re.findall("<script", page))
    assert with_run(whole, told, command="x") == whole, "it has no place left"


def test_a_page_without_the_place_stays_as_it_is() -> None:
    page = as_html("T", [Block("B", "w")])
    assert filled(page, "run", [place_for_run()]) == page
    assert filled("<!--run--> and no end", "run", [place_for_run()]) == "<!--run--> and no end"
