"""Published data sets, read whole through the auto shape. They lie beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorapar_core.data.rows import read_rows
from lorapar_core.data.shapes import EmptyRow, Example, example_from
from lorapar_core.numbers import parse_number

pytestmark = pytest.mark.real_data


def read(path: Path) -> tuple[list[Example], list[int]]:
    """The examples, and the places of rows that are empty."""
    examples, empty = [], []
    for number, row in read_rows(path):
        try:
            examples.append(example_from(row, place=f"{path.name} line {number}"))
        except EmptyRow:
            empty.append(number)
    return examples, empty


@pytest.mark.parametrize(("split", "count"), [("train", 7473), ("test", 1319)])
def test_gsm8k(shared_data: Path, split: str, count: int) -> None:
    examples, empty = read(shared_data / "gsm8k" / f"{split}.jsonl.gz")
    assert (len(examples), empty) == (count, [])
    for example in examples:
        assert parse_number(example.reference) is not None, example
        assert example.answer.splitlines()[-1].startswith("#### ")


def test_svamp(shared_data: Path) -> None:
    examples, empty = read(shared_data / "svamp" / "SVAMP.json.gz")
    assert (len(examples), empty) == (1000, [])
    assert examples[0] == Example(
        "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack. "
        "How much do you have to pay to buy each pack?",
        "76 - 25 = 51\n#### 51",
        "51",
    )
    # One equation of the set, chal-680's, doesn't give its answer.
    assert sum(example.answer.startswith("####") for example in examples) == 1
    assert all(parse_number(example.reference) is not None for example in examples)


def test_mawps(shared_data: Path) -> None:
    examples, empty = read(shared_data / "svamp" / "mawps_asdiv-a_train.jsonl.gz")
    assert (len(examples), empty) == (3138, [])
    assert all(parse_number(example.reference) is not None for example in examples)
    assert sum(" = " in example.answer for example in examples) > 3000


def test_dolly(shared_data: Path) -> None:
    examples, empty = read(shared_data / "dolly" / "databricks-dolly-15k.jsonl.gz")
    assert (len(examples), empty) == (15011, [])
    assert sum("\n\n" in example.prompt for example in examples) > 4000


@pytest.mark.parametrize(
    ("name", "count", "none"),
    [("code_alpaca_2k", 2015, [238, 1860]), ("new_codealpaca_4k", 4535, [])],
)
def test_codealpaca(shared_data: Path, name: str, count: int, none: list[int]) -> None:
    examples, empty = read(shared_data / "codealpaca" / f"{name}.jsonl.gz")
    assert (len(examples), empty) == (count, none)


def test_platypus_schema(shared_data: Path) -> None:
    examples, empty = read(shared_data / "platypus_standin" / "platypus_standin.jsonl.gz")
    assert (len(examples), empty) == (1747, [])
