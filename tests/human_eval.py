"""HumanEval's problems as checks: the canonical solution of each, and a mutant that fails."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from lorapar_core.sandbox import CodeCheck


def canonical(path: Path) -> list[CodeCheck]:
    """Of a HumanEval.jsonl.gz: 164 checks that pass."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return [
        CodeCheck(
            program=row["prompt"] + row["canonical_solution"],
            tests=row["test"],
            entry_point=row["entry_point"],
            helpers=row["prompt"],
        )
        for row in rows
    ]
