"""From a published set's row, or a user's, to a problem: in the usual words, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_benchmarks import HUMANEVAL, gsm8k_rows, mmlu_rows

from lorapar_core.data.problems import Problem, prefix, read_problems, stops, with_ids
from lorapar_core.errors import DataError


def read(task: str, *rows: dict[str, Any]) -> list[Problem]:
    return read_problems(((f"t.jsonl line {n}", row) for n, row in enumerate(rows, 1)), task=task)


ROW = {"question": " Two? ", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "high_school"}


def test_mmlu_is_worded_as_hendrycks_words_it() -> None:
    (problem,) = read("mmlu", ROW)
    assert problem.prompt == "Two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    assert (problem.reference, problem.solution, problem.group) == ("B", " B", "high_school")
    assert prefix([problem], group="high_school", kind="choice") == (
        "The following are multiple choice questions (with answers) about high school.\n\n"
        "Two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
    )
    assert prefix([], group="", kind="choice") == (
        "The following are multiple choice questions (with answers).\n\n"
    )


def test_gsm8k_and_svamp_are_worded_alike() -> None:
    (problem,) = read("gsm8k", gsm8k_rows(1)[0])
    question = gsm8k_rows(1)[0]["question"]
    assert problem.prompt == f"Question: {question}\nAnswer:"
    assert problem.reference == "3"
    assert prefix([problem], group="", kind="generate") == (
        f"Question: {question}\nAnswer: {gsm8k_rows(1)[0]['answer']}\n\n"
    )
    row = {"Body": "Dan had $ 4", "Question": "How much is left?", "Answer": "1.0"}
    (problem,) = read("svamp", row)
    assert problem.prompt == "Question: Dan had $ 4. How much is left?\nAnswer:"
    assert problem.reference == "1"


def test_humaneval_is_its_prompt_alone() -> None:
    (problem,) = read("humaneval", HUMANEVAL[0])
    assert problem.prompt == problem.question == HUMANEVAL[0]["prompt"]
    assert (problem.kind, problem.entry_point, problem.tests) == (
        "code",
        "double",
        HUMANEVAL[0]["test"],
    )


def test_a_users_row_is_of_the_kind_that_its_fields_say() -> None:
    (asked,) = read("file", {"prompt": "Capital of France?", "answer": "Paris"})
    assert (asked.kind, asked.prompt, asked.reference) == (
        "generate",
        "Capital of France?",
        "Paris",
    )
    assert read("file", {"prompt": "2 + 2 =", "answer": 4})[0].reference == "4"
    (chosen,) = read("file", {"prompt": "Sky?", "choices": ["blue", "red"], "answer": "blue"})
    assert (chosen.kind, chosen.reference) == ("choice", "A")
    (coded,) = read("file", {"prompt": "def f():\n", "tests": ["assert f() == 1", "f()"]})
    assert (coded.kind, coded.tests, coded.entry_point) == ("code", "assert f() == 1\nf()", "")


@pytest.mark.parametrize(
    ("answer", "letter"), [(2, "C"), ("c", "C"), (" C ", "C"), ("three", "C"), (0, "A")]
)
def test_a_choice_is_named_by_number_letter_or_text(answer: Any, letter: str) -> None:
    row = {"question": "?", "choices": ["one", "two", "three"], "answer": answer}
    assert read("file", row)[0].reference == letter


@pytest.mark.parametrize(
    ("task", "changed", "said"),
    [
        ("mmlu", {"answer": 4}, "the answer 4 names no single choice; give its position from 0"),
        ("mmlu", {"answer": -1}, "names no single choice"),
        ("mmlu", {"answer": True}, "names no single choice"),
        ("mmlu", {"answer": None}, "names no single choice"),
        ("mmlu", {"answer": "E"}, "names no single choice"),
        ("mmlu", {"choices": ["B", "A"], "answer": "A"}, "'A' names no single choice"),
        ("mmlu", {"choices": ["a", "a"], "answer": "x"}, "names no single choice"),
        ("mmlu", {"choices": "ABCD"}, "choices are str, expected a list of texts"),
        ("mmlu", {"choices": ["one"]}, "1 choices; expected 2 to 26"),
        ("mmlu", {"choices": [1, 2, 3, 4]}, "choices are list, expected a list of texts"),
        ("mmlu", {"question": "  "}, "no question or prompt"),
        ("mmlu", {"question": 7}, "question is int, expected text"),
        ("mmlu", {"subject": None}, "no subject"),
        ("mmlu", {"question": "\ud800"}, "half a surrogate pair"),
        ("gsm8k", {"question": ""}, "the prompt is empty"),
        ("humaneval", {"prompt": "def f(): ...", "test": ""}, "the tests are str, expected Python"),
        ("humaneval", {"prompt": "x", "test": "def check("}, "the tests are no Python"),
        ("humaneval", {"prompt": "x", "test": "assert 1"}, "no entry_point"),
        ("file", {"prompt": "x", "tests": "def check(f):\n    f()"}, "the tests test nothing"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(task: str, changed: dict[str, Any], said: str) -> None:
    row = {**ROW, **changed}
    if task in ("humaneval", "file"):
        row = changed
    with pytest.raises(DataError, match=f"t.jsonl line 1: .*{said}"):
        read(task, row)


def test_rows_of_two_kinds_are_refused() -> None:
    rows = ({"prompt": "1 + 1 =", "answer": 2}, {"prompt": "?", "choices": ["a", "b"], "answer": 0})
    with pytest.raises(DataError, match="line 2: a row of kind choice among rows of kind generate"):
        read("file", *rows)


def test_no_rows_are_no_benchmark() -> None:
    with pytest.raises(DataError, match="holds no problems"):
        read("gsm8k")


def test_an_id_names_what_is_asked_and_how_it_is_checked() -> None:
    one = read("mmlu", ROW)[0]
    for changed in (
        {"question": "Three?"},
        {"answer": 2},
        {"choices": ["1", "2", "3", "5"]},
        {"subject": "anatomy"},
    ):
        other = read("mmlu", {**ROW, **changed})[0]
        assert set(with_ids([one])) != set(with_ids([other])), changed
    assert set(with_ids([one])) == set(with_ids([read("mmlu", {**ROW, "source": "x"})[0]]))


def test_a_repeated_problem_is_counted_twice() -> None:
    """As published: MMLU's 14,042 hold a few repeats."""
    problems = read("mmlu", ROW, *mmlu_rows(1), ROW, ROW)
    ids = with_ids(problems)
    assert list(ids.values()) == problems
    assert len(ids) == 5
    assert list(with_ids(problems[::-1][:1])) == list(ids)[:1]


def test_fields_that_are_null_say_nothing() -> None:
    """As a Parquet file has them whose rows are of several kinds."""
    nothing = {"choices": None, "tests": None, "test": None}
    (asked,) = read("file", {**nothing, "prompt": "Capital of France?", "answer": "Paris"})
    assert asked.kind == "generate"
    (coded,) = read("file", {**nothing, "prompt": "def f(): ...", "tests": "assert f() is None"})
    assert (coded.kind, coded.tests) == ("code", "assert f() is None")


def test_an_entry_point_needs_a_check() -> None:
    row = {"prompt": "def f(): ...", "tests": "assert f() is None", "entry_point": "f"}
    with pytest.raises(DataError, match=r"line 1: it has an entry_point, .* no check\(candidate\)"):
        read("file", row)


def test_programs_stop_where_humaneval_does_whatever_the_task_is_called() -> None:
    assert stops("file", "code") == stops("humaneval", "code") != []
    assert stops("file", "generate") == []
