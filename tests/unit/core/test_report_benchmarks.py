"""The report's benchmarks: figures as measured, and each step tested problem by problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from tiny_inputs import spec

from lorapar_core.parquet import write_table
from lorapar_core.report import as_html
from lorapar_core.report_benchmarks import benchmark_blocks
from lorapar_core.report_block import Block
from lorapar_core.scores import choice_metrics, code_metrics, proportion

HOSTILE = "<script>alert('x')</script>|"
TOLD = {
    "task": "mmlu",
    "count": 6,
    "shots": {"a": [["q", "s"], ["q", "s"]], "b": []},
    "data": {"set": {"name": HOSTILE, "sha256": "f" * 64, "revision": ""}},
    "extraction": {"choice": "the likeliest"},
}
GROUPS = ["a", "a", "a", "a", "b", "b"]


def blocks(folder: Path, documents: dict[str, Any], tables: dict[str, Any]) -> list[Block]:
    inputs = {}
    for role, document in documents.items():
        inputs[role] = folder / f"{len(inputs)}.json"
        inputs[role].write_text(json.dumps(document))
    for role, columns in tables.items():
        kinds = {"example_id": pa.string(), "sample": pa.int32()}
        schema = pa.schema([(name, kinds.get(name, pa.bool_())) for name in columns])
        inputs[role] = folder / f"{len(inputs)}.parquet"
        write_table(inputs[role], columns, schema)
    return benchmark_blocks(spec("report", {}, inputs, folder))


def right(text: str, column: str = "choice_correct") -> dict[str, Any]:
    return {
        "example_id": [str(k) for k in range(len(text))],
        column: [c == "1" for c in text],
    }


def test_each_benchmark_has_its_figures(tmp_path: Path) -> None:
    answers = {"base": "100011", "sft": "111110"}
    metrics = {
        after: choice_metrics({"group": GROUPS, **right(text)}) for after, text in answers.items()
    }
    found = blocks(
        tmp_path,
        {"benchmark/m": TOLD, **{f"measured/{after}/m": m for after, m in metrics.items()}},
        {},
    )
    assert [block.title for block in found] == ["Benchmark: m", "Benchmark: m, by subject"]
    table, subjects = found
    assert "mmlu, 6 problems, 2 worked examples before each" in table.words
    assert f"{'f' * 12})" in table.words
    assert table.header == ["", "problems", "choice", "macro"]
    assert table.rows[0][:3] == ["before training", "6", "50.0 % (18.8 to 81.2)"]
    assert table.rows[1][0] == "after sft"
    assert table.rows[0][3].startswith("62.5 % ("), "a quarter and all"
    assert [row[:2] for row in subjects.rows] == [["a", "4"], ["b", "2"]]
    assert [cell.partition(" (")[0] for cell in subjects.rows[0][2:]] == ["25.0 %", "100.0 %"]
    page, empty = as_html("title", found), as_html("title", [])
    assert page.count("<script>") == empty.count("<script>"), "our own"
    assert "&lt;script&gt;" in page


def test_evaluations_are_compared_with_those_before_them(tmp_path: Path) -> None:
    (found,) = blocks(
        tmp_path,
        {},
        {
            "predictions/base": right("000000", "strict_correct"),
            "predictions/base/m": right("110000"),
            "predictions/sft": right("111111", "strict_correct"),
            "predictions/sft/m": right("101000"),
            "predictions/grpo": right("111111", "strict_correct"),
        },
    )
    assert found.title == "Paired comparisons"
    assert [list(row[:6]) for row in found.rows] == [
        ["own test set", "after sft less before training", "strict", "0", "6", found.rows[0][5]],
        ["own test set", "after grpo less after sft", "strict", "0", "0", found.rows[1][5]],
        ["own test set", "after grpo less before training", "strict", "0", "6", found.rows[2][5]],
        ["m", "after sft less before training", "choice", "1", "1", found.rows[3][5]],
    ]
    assert found.rows[0][5].startswith("+100.0 (")
    assert [row[6] for row in found.rows] == ["0.0312", "1", "0.0312", "1"]


def test_drawn_programs_are_shown_and_not_paired(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "example_id": ["a", "a"],
        "sample": [0, 1],
        "pass_correct": [True, False],
    }
    kept = {"outcome": ["passed", "failed"], "tokens": [1, 1], "finished": [True, True]}
    metrics = code_metrics({**rows, **kept}, k=[1])
    told = {**TOLD, "shots": {}}
    documents = {"benchmark/h": told, "measured/base/h": metrics, "measured/sft/h": metrics}
    tables = dict.fromkeys(("predictions/base/h", "predictions/sft/h"), rows)
    (found,) = blocks(tmp_path, documents, tables)
    assert found.header == ["", "problems", "pass@1"]
    assert found.rows[0][2].startswith("50.0 % (")


def test_a_stage_that_reads_less_leaves_a_cell_empty(tmp_path: Path) -> None:
    """After GRPO answers may stand in tags, where the harness finds none."""
    both = {"n": 4, "strict": proportion(1, 4), "harness_strict": proportion(1, 4)}
    documents = {
        "benchmark/g": {**TOLD, "task": "gsm8k"},
        "measured/grpo/g": {"n": 4, "strict": proportion(2, 4)},
        "measured/sft[2]/g": {**both, "beyond_context": 3},
    }
    (found,) = blocks(tmp_path, documents, {})
    assert found.header[2:] == ["strict", "harness_strict"]
    assert found.rows[0][3] == ""
    assert found.words.endswith(" 3 take more tokens than the model knows.")
    assert found.rows[1][3] == found.rows[1][2]


def test_a_run_without_benchmarks_has_no_such_blocks(tmp_path: Path) -> None:
    assert blocks(tmp_path, {}, {"predictions/base": right("1", "strict_correct")}) == []
