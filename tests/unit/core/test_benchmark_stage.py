"""Stage `benchmark`: what is asked is pinned, and hangs on a seed and the rows alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import SUBJECTS, gsm8k_rows, mmlu_rows, set_config, write_rows
from tiny_inputs import files, run_stage

from lorapar_core.benchmark import PROBLEMS, read_benchmark
from lorapar_core.data.benchmark_sets import require_asked_so
from lorapar_core.errors import DataError
from lorapar_core.parquet import read_table

Rows = Sequence[dict[str, Any]]


def read(folder: Path, task: str, rows: Rows, shown: Rows = (), **changed: Any) -> Path:
    inputs = {"set": write_rows(folder / "set.jsonl", rows)}
    if shown:
        inputs["shots_set"] = write_rows(folder / "shots.jsonl", shown)
    digests = {role: hashlib.sha256(p.read_bytes()).hexdigest() for role, p in inputs.items()}
    config = set_config(task, **changed)
    return run_stage("benchmark", config, inputs, folder / "out", digests=digests)


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "benchmark.json").read_text())
    return found


def asked(out: Path) -> list[str]:
    return read_table(out / "problems.parquet")["question"]


def test_everything_that_pins_it_is_told(tmp_path: Path) -> None:
    out = read(tmp_path / "a", "mmlu", mmlu_rows(4), mmlu_rows(3, start=50), shots=2)
    assert set(files(out)) == {"problems.parquet", "benchmark.json"}
    table, document = read_table(out / "problems.parquet"), told(out)
    assert list(table) == PROBLEMS.names
    assert table["question"] == [row["question"] for row in mmlu_rows(4)]
    assert document["count"] == 8
    assert document["subjects"] == sorted(SUBJECTS)
    content = (tmp_path / "a" / "set.jsonl").read_bytes()
    assert document["data"]["set"]["sha256"] == hashlib.sha256(content).hexdigest()
    for subject in SUBJECTS:
        first = [r for r in mmlu_rows(3, start=50) if r["subject"] == subject][:2]
        shown = [question for question, _ in document["shots"][subject]]
        assert shown == [row["question"] for row in first], "the first of the subject"
        start = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        assert document["prefixes"][subject].startswith(start + first[0]["question"])
        assert document["prefixes"][subject].endswith("\n\n")
    again = read(tmp_path / "b", "mmlu", mmlu_rows(4), mmlu_rows(3, start=50), shots=2)
    assert files(again) == files(out)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    out = read(tmp_path / "a", "mmlu", mmlu_rows(2), mmlu_rows(3, start=50), shots=1)
    shown = read_benchmark(out / "problems.parquet", out / "benchmark.json")
    table = read_table(out / "problems.parquet")
    assert list(shown.problems) == table["id"]
    assert [p.prompt for p in shown.problems.values()] == table["prompt"]
    assert all(isinstance(p.choices, tuple) for p in shown.problems.values())
    assert shown.prefixes == told(out)["prefixes"]
    assert (shown.task, shown.kind) == ("mmlu", "choice")


def test_problems_are_drawn_by_what_they_are_and_not_by_where_they_stand(tmp_path: Path) -> None:
    rows = gsm8k_rows(40)
    out = [
        read(tmp_path / str(k), "gsm8k", some, examples=10, seed=seed)
        for k, (some, seed) in enumerate([(rows, 3), (rows[::-1], 3), (rows, 4)])
    ]
    first, turned, other = ({*asked(path)} for path in out)
    assert len(first) == 10
    assert turned == first != other
    assert asked(out[0]) == asked(out[1])[::-1], "in the set's order"
    more = read(tmp_path / "more", "gsm8k", rows, examples=20, seed=3)
    assert {*asked(more)} > first


def test_ids_are_the_same_after_other_worked_examples(tmp_path: Path) -> None:
    plain = read(tmp_path / "a", "gsm8k", gsm8k_rows(5))
    shown = read(tmp_path / "b", "gsm8k", gsm8k_rows(5), gsm8k_rows(9, start=20), shots=3)
    ids = [read_table(out / "problems.parquet")["id"] for out in (plain, shown)]
    assert ids[0] == ids[1]
    assert told(plain)["prefixes"][""] == ""
    assert told(shown)["prefixes"][""].count("Question:") == 3


def test_nothing_is_shown_that_is_asked(tmp_path: Path) -> None:
    out = read(tmp_path, "gsm8k", gsm8k_rows(8), gsm8k_rows(12), shots=4)
    shown = {question for question, _ in told(out)["shots"][""]}
    assert shown == {row["question"] for row in gsm8k_rows(12)[8:]}


def test_a_subject_is_asked_alone(tmp_path: Path) -> None:
    out = read(tmp_path, "mmlu", mmlu_rows(3), subjects=["virology"])
    assert all(question.startswith("virology") for question in asked(out))
    assert told(out)["subjects"] == ["virology"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subjects": ["sociology"]}, "no problem of subject 'sociology'"),
        ({"shots": 3}, "has 2 worked examples of subject 'anatomy'"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, "mmlu", mmlu_rows(3), mmlu_rows(2, start=50), **changed)


def test_a_file_that_was_changed_is_not_stored_under_its_old_name(tmp_path: Path) -> None:
    inputs = {"set": write_rows(tmp_path / "set.jsonl", gsm8k_rows(3))}
    with pytest.raises(DataError, match="was changed while the run read it"):
        run_stage(
            "benchmark", set_config("gsm8k"), inputs, tmp_path / "out", digests={"set": "0" * 64}
        )


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("choice", {"prompt": "chat"}, "use prompt: plain"),
        ("code", {"prompt": "as_sft"}, "use prompt: plain or chat"),
        ("code", {"shots": True}, "use shots: 0"),
        ("generate", {"samples": 4}, "the rows carry no tests; use 1"),
    ],
)
def test_what_makes_no_sense_of_a_kind_is_refused(
    kind: Any, changed: dict[str, Any], said: str
) -> None:
    usual: dict[str, Any] = {"prompt": "plain", "samples": 1, "shots": False}
    require_asked_so(kind, **usual)
    with pytest.raises(DataError, match=said):
        require_asked_so(kind, **{**usual, **changed})
