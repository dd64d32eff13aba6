"""Stage `benchmark`: read a test set once, and pin everything that its figures hang on.

Nothing here knows of a model: the same problems, in the same words and after the same worked
examples, are put to every one. An id names what is asked, so that runs with other shots or of other
models can be compared problem by problem.

config: task, examples, seed, subjects, shots; set and shots_set (sources). Inputs: set and
shots_set where they are files. Writes `problems.parquet` (one row a problem, in the set's order)
and `benchmark.json` (task, wording, worked examples, where an answer ends, how it is read, the
data's digest or commit, and how many).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorapar_core.data.benchmark_sets import Shown, gather
from lorapar_core.data.problems import WORDING, Problem
from lorapar_core.parquet import read_table, write_table
from lorapar_core.prepare import require_unchanged
from lorapar_core.spec import Spec

PROBLEMS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "kind", "group", "question", "prompt")),
        ("choices", pa.list_(pa.string())),
        *((name, pa.string()) for name in ("reference", "tests", "entry_point")),
    ]
)
EXTRACTION = {
    "generate": {
        "strict": "what stands after the first '#### ', or in the answer tag",
        "flexible": "the last number, or what is marked as the answer",
        "harness_strict": r"#### (\-?[0-9\.\,]+), first match",
        "harness_flexible": r"(-?[$0-9.,]{2,})|(-?[0-9]+), last match",
    },
    "choice": {"choice": "the likeliest of ' A', ' B' ... after the prompt; of equals the first"},
    "code": {"pass": "prompt and completion, cut at the first of `stops`, pass the tests"},
}
"""How an answer is read, in words, by kind."""


def run(spec: Spec, out: Path) -> None:
    for role in ("set", "shots_set"):
        require_unchanged(spec, role)
    shown = gather(spec.config, spec.inputs)
    write_table(out / "problems.parquet", _columns(shown.problems), PROBLEMS)
    told = {
        "task": shown.task,
        "kind": shown.kind,
        "wording": WORDING,
        "prefixes": shown.prefixes,
        "shots": shown.shots,
        "stops": shown.stops,
        "in_words": shown.in_words,
        "extraction": EXTRACTION[shown.kind],
        "data": {
            role: {**spec.config[role], "sha256": spec.digests.get(role)}
            for role in ("set", "shots_set")
            if spec.config[role]
        },
        "subjects": sorted({problem.group for problem in shown.problems.values()}),
        "examples": spec.config["examples"],
        "seed": spec.config["seed"],
        "count": len(shown.problems),
    }
    text = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False)
    (out / "benchmark.json").write_text(text + "\n", encoding="utf-8")


def _columns(problems: Mapping[str, Problem]) -> dict[str, list[Any]]:
    fields = [name for name in PROBLEMS.names if name not in ("id", "choices")]
    return {
        "id": list(problems),
        "choices": [list(problem.choices) for problem in problems.values()],
        **{name: [getattr(problem, name) for problem in problems.values()] for name in fields},
    }


def read_benchmark(problems: Path, told: Path) -> Shown:
    """What the stage wrote."""
    fields = json.loads(told.read_text(encoding="utf-8"))
    columns = read_table(problems, PROBLEMS.names)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Shown(
        task=fields["task"],
        kind=fields["kind"],
        problems={
            row.pop("id"): Problem(**{**row, "choices": tuple(row["choices"])}) for row in rows
        },
        shots={g: [(q, s) for q, s in shots] for g, shots in fields["shots"].items()},
        prefixes=fields["prefixes"],
        stops=fields["stops"],
        in_words=fields["in_words"],
    )
