"""From rows to examples, in every data set's own schema."""

from __future__ import annotations

from typing import Any

import pytest

from lorapar_core.data.equations import tidy, value_of
from lorapar_core.data.shapes import EmptyRow, Example, example_from, reference_of
from lorapar_core.errors import DataError

PLACE = "train.jsonl line 7"
SVAMP = {
    "ID": "chal-1",
    "Body": "A pack costs 76 dollars. There is a discount of 25 dollars",
    "Question": "What do you pay?",
    "Equation": "( 76.0 - 25.0 )",
    "Answer": 51.0,
    "Type": "Subtraction",
}


def read(row: dict[str, Any], **options: Any) -> Example:
    return example_from(row, place=PLACE, **options)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"question": "Q? ", "answer": "5 + 3 = <<5+3=8>>8\n#### 8"},
            Example("Q?", "5 + 3 = <<5+3=8>>8\n#### 8", "8"),
        ),
        ({"Prompt": "P", "Completion": "C"}, Example("P", "C", "C")),
        ({"problem": "P", "solution": "S"}, Example("P", "S", "S")),
        ({"question": "Q?", "answer": 504}, Example("Q?", "#### 504", "504")),
        ({"question": "Q?", "answer": 2.5}, Example("Q?", "#### 2.5", "2.5")),
        ({"question": "Q?", "answer": "1,200"}, Example("Q?", "#### 1200", "1200")),
        (
            {"question": "Q?", "answer": 504, "equation": "56 * 9"},
            Example("Q?", "56 * 9 = 504\n#### 504", "504"),
        ),
        (
            {"question": "Q?", "answer": 504, "equation": "56 * 8"},
            Example("Q?", "#### 504", "504"),
        ),
        (
            SVAMP,
            Example(
                "A pack costs 76 dollars. There is a discount of 25 dollars. What do you pay?",
                "76 - 25 = 51\n#### 51",
                "51",
            ),
        ),
        (
            # As the hub has it: the answer as text, and both parts joined without a stop.
            {**SVAMP, "Answer": "51", "question_concat": "..."},
            Example(
                "A pack costs 76 dollars. There is a discount of 25 dollars. What do you pay?",
                "76 - 25 = 51\n#### 51",
                "51",
            ),
        ),
        (
            {"instruction": "Sum up.", "context": "A text.", "response": "It.", "category": "x"},
            Example("Sum up.\n\nA text.", "It.", "It."),
        ),
        (
            {"instruction": "Say 5.", "input": "", "output": "5"},
            Example("Say 5.", "5", "5"),
        ),
        (
            {"instruction": "Code.", "input": None, "output": "    return 1\n"},
            Example("Code.", "    return 1", "    return 1".strip()),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "First?"},
                    {"role": "system", "content": "Be brief."},
                    {"role": "assistant", "content": "One."},
                    {"role": "user", "content": "Second?"},
                    {"role": "assistant", "content": "Two."},
                    {"role": "user", "content": "Thanks."},
                ]
            },
            Example("Be brief.\n\nFirst?\n\nOne.\n\nSecond?", "Two.", "Two."),
        ),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            Example("Q", "A", "A"),
        ),
    ],
)
def test_auto(row: dict[str, Any], expected: Example) -> None:
    assert read(row) == expected


def test_columns_win() -> None:
    row = {"question": "no", "answer": "no", "q": "Q", "a": 3, "c": "C", "talk": []}
    assert read(row, columns={"prompt": "q", "answer": "a"}) == Example("Q", "#### 3", "3")
    assert read(row, columns={"prompt": "q", "answer": "answer", "context": "c"}).prompt == "Q\n\nC"
    row["talk"] = [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    assert read(row, columns={"messages": "talk"}) == Example("U", "A", "A")


@pytest.mark.parametrize(
    ("checks", "reference"),
    [
        ("assert f(1)\n", "# lorapar: tests\nassert f(1)\n"),
        (
            "def check(c):\n    assert c(1)\ncheck(f)",
            "# lorapar: tests\ndef check(c):\n    assert c(1)\ncheck(f)",
        ),
        (["assert f(1)", "assert f(2)"], "# lorapar: tests\nassert f(1)\nassert f(2)"),
        ([], "A"),
        (" \n", "A"),
        (None, "A"),
    ],
)
def test_a_row_may_carry_tests(checks: Any, reference: str) -> None:
    row = {"prompt": "P", "answer": "A", "checks": checks}
    assert read(row, columns={"tests": "checks"}) == Example("P", "A", reference)
    assert read(row) == Example("P", "A", "A")


def test_an_explicit_shape_wins() -> None:
    row = {"prompt": "P", "answer": "A", "instruction": "I", "output": "O"}
    assert read(row).prompt == "I"
    assert read(row, shape="prompt_answer") == Example("P", "A", "A")


def with_tests(checks: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row that carries `checks`, and the options that say so."""
    return {"prompt": "x", "answer": "y", "t": checks}, {"columns": {"tests": "t"}}


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "x"}, {}, r"no field for the prompt; expected prompt or question .*\['text'\]"),
        ({"prompt": "x"}, {}, "no field for the answer"),
        ({"prompt": "x", "answer": "y"}, {"columns": {"prompt": "z"}}, "prompt is 'z', but"),
        ({"prompt": ["x"], "answer": "y"}, {}, "the prompt is list, expected text"),
        ({"prompt": "x", "answer": True}, {}, "the answer is bool, expected text"),
        (*with_tests("assert f("), r"the tests are no Python \('\(' was never closed"),
        (*with_tests("\ud800"), "surrogate"),
        (*with_tests("# assert f(1)"), "the tests test nothing: .* add the calls"),
        (*with_tests("import f\n\ndef test_f():\n    assert f(1)"), "the tests test nothing"),
        (*with_tests("def check(candidate):\n    assert candidate(1)"), r"check\(NAME\)"),
        (*with_tests('"""Tests."""\nclass Test: pass\npass'), "the tests test nothing"),
        (
            *with_tests("import unittest\nif __name__ == '__main__':\n    unittest.main()"),
            "the tests test nothing",
        ),
        (*with_tests({"a": 1}), "the tests is dict, expected text"),
        (*with_tests([1]), "the tests is list, expected text"),
        ({"prompt": "x", "answer": "y"}, {"columns": {"tests": "t"}}, "says tests is 't', but"),
        ({"prompt": "x", "answer": float("nan")}, {}, "the answer is float, expected text"),
        ({"prompt": "x", "answer": ["a", "b"]}, {}, "the answer is list"),
        ({"prompt": "x", "answer": "\ud800"}, {}, "surrogate"),
        ({"messages": []}, {}, "a list of turns"),
        ({"messages": "x"}, {}, "a list of turns"),
        ({"messages": [{"role": "user", "content": "x"}]}, {}, "no assistant turn"),
        ({"messages": [{"role": "user", "content": [1]}]}, {}, "turn 1: expected a role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, {}, "the prompt is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    row: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(row, **options)
    assert str(error.value).startswith(PLACE)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": " \n", "answer": "y"},
        {"prompt": "x", "answer": ""},
        {"prompt": "x", "answer": None},
        {"instruction": "x", "output": " "},
    ],
)
def test_empty_rows_are_an_error_of_their_own(row: dict[str, Any]) -> None:
    with pytest.raises(EmptyRow, match="is empty"):
        read(row)


def test_unknown_shape() -> None:
    with pytest.raises(ValueError, match="no shape 'tree'"):
        read({}, shape="tree")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("a\n#### 8", "8"),
        ("#### 7\n#### 8 ", "8"),
        (" A text. ", "A text."),
        ("end ####", "end ####"),
    ],
)
def test_reference(answer: str, reference: str) -> None:
    assert reference_of(answer) == reference


@pytest.mark.parametrize(
    ("equation", "value", "shown"),
    [
        ("( 76.0 - 25.0 )", 51, "76 - 25"),
        ("( ( 8.0 - 2.0 ) / 3.0 )", 2, "(8 - 2) / 3"),
        ("( 1.0 + 2.0 ) * ( 3.0 + 4.0 )", 21, "(1 + 2) * (3 + 4)"),
        ("2.50 * 2", 5, "2.50 * 2"),
        ("1 / 0", None, "1 / 0"),
        ("__import__('os')", None, "__import__('os')"),
        ("2 ** 9 ** 9", None, "2 ** 9 ** 9"),
        ("", None, ""),
    ],
)
def test_equations(equation: str, value: int | None, shown: str) -> None:
    assert value_of(equation) == value
    assert tidy(equation) == shown
