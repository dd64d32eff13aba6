"""What a run prints of accuracy: each with n and its interval."""

from __future__ import annotations

from typing import Any

from flows.summary import accuracy_tables
from lorapar_core.scores import choice_metrics, proportion


def row(told: str, first: str) -> list[str]:
    """The cells of the line that begins so."""
    (line,) = (line for line in told.splitlines() if line.startswith(first))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def metrics(n: int, **correct: int) -> dict[str, Any]:
    return {"n": n, **{name: proportion(count, n) for name, count in correct.items()}}


def test_the_recipes_test_set_and_each_benchmark_have_a_table() -> None:
    """Wilson's interval of 2 in 8 is 7.1 to 59.1 %, of 0 in 8 0 to 32.4 %."""
    rows = {"group": ["a"] * 8 + ["b"] * 2, "choice_correct": [True, True, *[False] * 8]}
    own, gsm8k, mmlu = accuracy_tables(
        {
            "metrics": {
                "base": metrics(8, strict=0, flexible=2),
                "sft": metrics(8, strict=2, flexible=8),
            },
            "benchmarks": {
                "gsm8k": {"base": metrics(8, strict=2, flexible=0)},
                "mmlu": {"base": choice_metrics(rows)},
            },
        }
    )
    assert row(own, "accuracy") == ["accuracy", "n", "strict", "flexible"]
    nothing, some = "0.0 % [0.0, 32.4]", "25.0 % [7.1, 59.1]"
    assert row(own, "before training") == ["before training", "8", nothing, some]
    assert row(own, "after SFT")[:3] == ["after SFT", "8", some]
    assert row(gsm8k, "before training") == ["before training", "8", some, nothing]
    assert row(mmlu, "mmlu") == ["mmlu", "n", "choice", "macro"]
    assert row(mmlu, "before training")[:3] == ["before training", "10", "20.0 % [5.7, 51.0]"]
    assert row(mmlu, "before training")[3].startswith("12.5 % [")
