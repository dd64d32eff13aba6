"""Word problems are worked from their sets' own equations, and what can't be is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from artifacts import Store
from deployments.word_problems import rows
from flows.places import RECIPES, ROOT
from flows.plan import plan
from lorapar_core.data.choice import entry_of, placed_examples
from lorapar_core.data.sources import Source
from lorapar_core.parquet import read_table
from lorapar_core.recipe import load_recipe

TRAIN = """\
Question,Numbers,Equation,Answer,group_nums,Body,Ques
"A shelf has number0 books . How many have number1 shelves ?",56.0 9.0,* number0 number1,504.0,[],,
"Ann had number0 games but number1 were n't working . At $ number2 each ?",10.0 2.0 4.0,\
* - number0 number1 number2,32.0,[],,
"A pie is cut in number0 . What is a third ?",4.5,/ number0 3,1.5,[],,
"Wrong ?",2.0 2.0,+ number0 number1,5.0,[],,
"Endless ?",1.0 3.0,/ number0 number1,0.3333333333333333,[],,
"By nothing ?",1.0 0.0,/ number0 number1,0.0,[],,
"No operation ?",7.0,number0,7.0,[],,
"Beyond ?",1.0 2.0,+ number0 number9,3.0,[],,
"Asked for number7 ?",1.0 2.0,+ number0 number1,3.0,[],,
"Too long ?",1.0 2.0,+ number0 number1 number1,3.0,[],,
"""
TEST = [
    {"ID": "chal-1", "Body": "Each pack costs 76 dollars", "Question": "How much?", "Answer": 51.0},
    {"ID": "chal-2", "Body": "He had $ 3.5.", "Question": " How much? ", "Answer": 0.5},
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    svamp = tmp_path / "SVAMP"
    (svamp / rows.TRAIN).parent.mkdir(parents=True)
    (svamp / rows.TRAIN).write_text(TRAIN)
    (svamp / rows.TEST).write_text(json.dumps(TEST))
    return svamp


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_problems_are_worked_a_line_a_step(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_rows(clone, tmp_path / "out")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["rows"], line["left_out"]) for line in said] == [(3, 7), (2, 0)]
    assert said[0]["such_as"][0] == "Wrong ?: the equation gives 4, the answer is 5"
    assert read(tmp_path / "out" / "train.jsonl") == [
        {
            "prompt": "A shelf has 56 books. How many have 9 shelves?",
            "answer": "56 * 9 = 504\n#### 504",
        },
        {
            "prompt": "Ann had 10 games but 2 weren't working. At $ 4 each?",
            "answer": "10 - 2 = 8\n8 * 4 = 32\n#### 32",
        },
        {
            "prompt": "A pie is cut in 4.5. What is a third?",
            "answer": "4.5 / 3 = 1.5\n#### 1.5",
        },
    ]
    assert read(tmp_path / "out" / "test.jsonl") == [
        {"prompt": "Each pack costs 76 dollars. How much?", "answer": "#### 51"},
        {"prompt": "He had $ 3.5. How much?", "answer": "#### 0.5"},
    ]


def test_one_operation_is_system_1s(clone: Path, tmp_path: Path) -> None:
    """By the ids that the pipeline gives the same rows."""
    rows.write_rows(clone, tmp_path / "out")
    votes = read_table(tmp_path / "out" / "votes.parquet")
    source = Source("file", ".jsonl")
    examples = [e for _, e in placed_examples(source, tmp_path / "out" / "train.jsonl")]
    assert votes["example_id"] == [entry_of(example, ".jsonl").id for example in examples]
    assert votes["label"] == [1, 2, 1]


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "give a clone of https://github.com/arkilpatel/SVAMP" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (rows.TRAIN, "Question,Numbers\nq,1.0\n"),
        (rows.TRAIN, "Question,Numbers,Equation,Answer\nq,one,number0,1.0\n"),
        (rows.TRAIN, "Question,Numbers,Equation,Answer\nq,1.0,number0\n"),
        (rows.TRAIN, "Question,Numbers,Equation,Answer\n"),
        (rows.TEST, "[{}]"),
        (rows.TEST, "{"),
    ],
)
def test_other_files_are_refused(
    clone: Path, tmp_path: Path, file: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / file).write_text(text)
    assert rows.main([str(clone), "--out", str(tmp_path / "out")]) == 1
    assert f"lorapar: {clone / file}: no " in capsys.readouterr().err


def test_the_recipe_is_planned_on_the_rows(clone: Path, tmp_path: Path) -> None:
    """It stands beside its rows, whose paths it tells."""
    here = tmp_path / "here"
    rows.write_rows(clone, here / "rows")
    shutil.copy(ROOT / "deployments" / "word_problems" / "word-problems.yaml", here)
    store = Store.open(tmp_path / "store")
    few = {"data": {"examples": 0, "test_examples": 0}, "importance": {"examples": 1}}
    recipe = load_recipe(here / "word-problems.yaml", recipes=RECIPES, overrides=few)
    planned = plan(recipe, store=store)
    assert {"vote[equations]", "sft", "grpo"} <= {stage["name"] for stage in planned["stages"]}
    assert planned["votes"] == 0
