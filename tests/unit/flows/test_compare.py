"""`lorapar compare`: two evaluations in a store, named by a digest, a key, or their beginnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts import Record, Store
from flows import cli
from lorapar_core.evaluate import PREDICTIONS
from lorapar_core.parquet import write_table


def publish(store: Store, folder: Path, right: str, *, key: str, ids: str = "abcdefgh") -> Record:
    """An evaluation in which `strict` is as `right` says, and `flexible` always wrong."""
    folder.mkdir()
    texts = ("prompt", "reference", "completion", "strict", "flexible")
    columns = {
        "example_id": list(ids),
        **{name: [name] * len(ids) for name in texts},
        "strict_correct": [c == "1" for c in right],
        "flexible_correct": [False] * len(ids),
        "tokens": [1] * len(ids),
        "finished": [True] * len(ids),
    }
    write_table(folder / "predictions.parquet", columns, PREDICTIONS)
    (folder / "metrics.json").write_text(json.dumps({"right": right}))
    fields = {"stage": "evaluate", "name": "evaluate[sft]", "version": 1}
    return store.publish(folder, key=key, config={}, inputs={}, provenance={}, **fields)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def records(store: Store, tmp_path: Path) -> list[Record]:
    rights = {"a": "11110000", "b": "11111111", "c": "00000000"}
    return [publish(store, tmp_path / k, right, key=k * 64) for k, right in rights.items()]


@pytest.mark.parametrize("name", ["digest", "start", "key", "key's start", "metrics"])
def test_an_evaluation_has_several_names(
    store: Store, records: list[Record], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def named(record: Record) -> str:
        digest = record.outputs["predictions.parquet"].digest
        return {
            "digest": digest,
            "start": digest[:12].upper(),
            "key": record.key,
            "key's start": record.key[:10],
            "metrics": record.outputs["metrics.json"].digest,
        }[name]

    names = map(named, records[:2])
    assert cli.main(["compare", *names, "--json", "--store", str(store.root)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["predictions"] == [r.outputs["predictions.parquet"].digest for r in records[:2]]
    strict, flexible = document["comparisons"]
    counts = [strict[name] for name in ("n", "both", "only_first", "only_second", "neither")]
    assert counts == [8, 4, 0, 4, 0]
    assert strict["difference"] == 0.5
    assert strict["p"] == 0.125
    assert flexible["neither"] == 8


def test_a_person_reads_accuracies_counts_and_a_verdict(
    store: Store, records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (record.key for record in records[:2])
    assert cli.main(["compare", one, two, "--store", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "50.0 % [21.5, 78.5]" in said
    assert "100.0 % [67.6, 100.0]" in said
    assert "+50.0 points" in said
    assert "0.125" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [("ffffff", "names an object 'ffffff'"), ("abc", "is too short"), ("OTHER", "no evaluation")],
)
def test_what_is_no_evaluation_is_refused(
    store: Store,
    records: list[Record],
    tmp_path: Path,
    name: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "adapter.json").write_text("{}")
    fields = {"stage": "sft", "name": "sft", "version": 1, "config": {}, "inputs": {}}
    other = store.publish(folder, key="d" * 64, provenance={}, **fields)
    given = other.key if name == "OTHER" else name
    assert cli.main(["compare", records[0].key, given, "--store", str(store.root)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_runs_on_other_problems_are_refused(
    store: Store, records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = publish(store, tmp_path / "z", "11", key="e" * 64, ids="az")
    assert cli.main(["compare", records[0].key, other.key, "--store", str(store.root)]) == 2
    assert "answer 8 and 2 problems, 1 of them the same" in capsys.readouterr().err
