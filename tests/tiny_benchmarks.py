"""Small benchmarks in the published sets' own shapes, made up here, and files of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUBJECTS = ("anatomy", "virology")
HUMANEVAL = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'import math\n\n\ndef root(x: float) -> float:\n    """The square root."""\n',
        "entry_point": "root",
        "canonical_solution": "    return math.sqrt(x)\n",
        "test": "def check(candidate):\n    assert candidate(9.0) == 3.0\n",
    },
]


def mmlu_rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """`count` of each subject."""
    return [
        {
            "subject": subject,
            "question": f"{subject}: how many apples are {k} and {k % 7} apples?",
            "choices": [str(k + k % 7 + shift) for shift in (0, 1, 3, 12)],
            "answer": k % 4,
        }
        for subject in SUBJECTS
        for k in range(start, start + count)
    ]


def gsm8k_rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Maya has {k} apples. Omar gives her 3 more. How many does she have?",
            "answer": f"Maya has {k} + 3 = <<{k}+3={k + 3}>>{k + 3} apples.\n#### {k + 3}",
        }
        for k in range(start, start + count)
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """As JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows))
    return path


def set_config(task: str, *, shots: int = 0, **changed: Any) -> dict[str, Any]:
    """Of stage `benchmark`, its rows in .jsonl files."""
    source = {
        "kind": "file",
        "name": ".jsonl",
        "revision": "",
        "config": "",
        "split": "",
        "shape": "auto",
        "columns": {},
    }
    return {
        "task": task,
        "examples": 0,
        "seed": 0,
        "subjects": [],
        "shots": shots,
        "set": source,
        "shots_set": source if shots else None,
        **changed,
    }
