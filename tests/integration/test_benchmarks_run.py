"""Benchmarks through `lorapar run`: measured, compared, on the page, and cached the next time."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import HUMANEVAL, gsm8k_rows, mmlu_rows, write_rows
from tiny_recipe import write_tiny_recipe

from flows import cli

pytestmark = [
    pytest.mark.slow,
    # Prefect, once another test has imported it, listens to our loggers and misses its flow here.
    pytest.mark.filterwarnings("ignore:Logger 'lorapar:UserWarning"),
]


def lorapar(*arguments: object) -> Any:
    """What the command prints as its last line."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main([*map(str, arguments), "--json"])
    assert code == 0
    return json.loads(out.getvalue().splitlines()[-1])


def test_a_run_with_benchmarks(tiny_model: Path, tmp_path: Path) -> None:
    source = {
        name: str(write_rows(tmp_path / f"{name}.jsonl", rows))
        for name, rows in {
            "gsm8k": gsm8k_rows(6),
            "shots": gsm8k_rows(4, start=50),
            "mmlu": mmlu_rows(4),
            "humaneval": HUMANEVAL,
        }.items()
    }
    benchmarks = [
        {"task": "gsm8k", "source": source["gsm8k"], "shots": 1, "shots_source": source["shots"]},
        {"name": "trained", "task": "gsm8k", "source": source["gsm8k"], "prompt": "as_sft"}
        | {"models": "trained"},
        {"task": "mmlu", "source": source["mmlu"]},
        {"task": "humaneval", "source": source["humaneval"], "models": "base"},
    ]
    recipe = write_tiny_recipe(
        tmp_path / "tiny.yaml",
        tiny_model,
        evaluation={"benchmarks": benchmarks},
        stages=[{"kind": "sft", "system": 1}],
    )
    store = tmp_path / "store"
    first = lorapar("run", recipe, "--store", store)
    asked = {name: {*by_stage} for name, by_stage in first["benchmarks"].items()}
    assert asked == {
        "gsm8k": {"base", "sft"},
        "trained": {"sft"},
        "mmlu": {"base", "sft"},
        "humaneval": {"base"},
    }
    assert first["benchmarks"]["mmlu"]["sft"]["choice"]["accuracy"] <= 1
    assert first["benchmarks"]["humaneval"]["base"]["pass@1"]["correct"] == 0
    page = Path(first["report"]).read_text()
    for words in ("Benchmark: mmlu, by subject", "Benchmark: trained", "Paired comparisons"):
        assert words in page
    artifact = first["artifacts"]["report/report.html"]
    assert (
        cli.main(["artifacts", "export", artifact, str(tmp_path / "page"), f"--store={store}"]) == 0
    )
    (kept,) = (path for path in (tmp_path / "page").rglob("*") if path.is_file())
    assert str(tmp_path) not in kept.read_text(), "it holds no path; the run's copy has the command"
    named = [
        first["artifacts"][f"evaluate[{after}/gsm8k]/predictions.parquet"]
        for after in ("base", "sft")
    ]
    compared = lorapar("compare", *named, "--store", store)
    assert [found["n"] for found in compared["comparisons"]] == [6] * 4
    again = lorapar("run", recipe, "--store", store)
    assert {stage["action"] for stage in again["stages"].values()} == {"cached"}
    assert again["artifacts"] == first["artifacts"]
