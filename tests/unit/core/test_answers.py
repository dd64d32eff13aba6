"""Both answer formats: what is extracted, what counts as right, and what counts as formatted."""

from __future__ import annotations

from decimal import Decimal

import pytest

from lorapar_core.answers import HASH, TAGS, AnswerFormat, answer_format, is_right, matches

GOOD_TAGS = "<reasoning>\n5 + 3 = 8\n</reasoning>\n<answer>\n8\n</answer>"
GOOD_HASH = "Ann has 5 + 3 = 8 apples.\n#### 8"


def test_formats_are_called_by_name() -> None:
    assert answer_format("tags") is TAGS
    assert answer_format("hash") is HASH
    with pytest.raises(ValueError, match="no answer format 'xml'; known: hash, tags"):
        answer_format("xml")


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (GOOD_HASH, 8, 8),
        ("#### 8\n#### 9", 8, 9),
        ("#### 1,234.", 1234, 1234),
        ("#### -5", -5, -5),
        ("####8", None, 8),
        ("#### $8", None, 8),
        ("#### 8 apples", 8, 8),
        ("#### ...", None, None),
        ("#### 1.2.3", None, 3),
        ("The answer is 8.", None, 8),
        ("nothing", None, None),
        ("", None, None),
    ],
)
def test_hash_numbers(text: str, strict: int | None, flexible: int | None) -> None:
    assert (HASH.strict(text), HASH.flexible(text)) == (strict, flexible)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (GOOD_TAGS, 8, 8),
        ("<answer>$1,234</answer>", 1234, 1234),
        ("<answer>8 apples</answer>", None, 8),
        ("<answer>7</answer> no, <answer>8</answer>", None, 8),
        ("<answer>8", None, 8),
        ("</answer>8<answer>", None, 8),
        ("<answer>none</answer> of the 8", None, 8),
        ("8 it is", None, 8),
        ("", None, None),
    ],
)
def test_tag_numbers(text: str, strict: int | None, flexible: int | None) -> None:
    assert (TAGS.strict(text), TAGS.flexible(text)) == (strict, flexible)


@pytest.mark.parametrize(
    ("found", "reference", "right"),
    [
        (Decimal("8.0"), "8", True),
        (Decimal(1234), "$1,234", True),
        (Decimal(9), "8", False),
        ("8.00", "8", True),
        ("eight", "8", False),
        (None, "8", False),
        (None, "Paris", False),
        (" paris. ", "Paris", True),
        ('"New  York"', "new york", True),
        ("Lyon", "Paris", False),
        (Decimal(3), "answer3", False),
    ],
)
def test_matches(found: Decimal | str | None, reference: str, right: bool) -> None:
    assert matches(found, reference) is right


@pytest.mark.parametrize(
    ("form", "text", "reference", "strict", "flexible"),
    [
        (HASH, GOOD_HASH, "8", True, True),
        (HASH, "#### 8 apples", "8", True, True),
        (HASH, "#### $8", "8", False, True),
        (HASH, "so 8 in all", "8", False, True),
        (HASH, "#### Paris", "paris", True, True),
        (HASH, "Paris", "paris", False, True),
        (TAGS, GOOD_TAGS, "8", True, True),
        (TAGS, "<answer>8 apples</answer>", "8", False, True),
        (TAGS, "<answer>Paris</answer>", "Paris", True, True),
        (TAGS, "It is Paris", "Paris", False, False),
    ],
)
def test_right_answers(
    form: AnswerFormat, text: str, reference: str, strict: bool, flexible: bool
) -> None:
    assert is_right(text, reference, form, strict=True) is strict
    assert is_right(text, reference, form, strict=False) is flexible
    # The same by way of the extracted text, which is what evaluation keeps.
    assert matches(form.strict_text(text), reference) is strict
    assert matches(form.flexible_text(text), reference) is flexible


@pytest.mark.parametrize(
    ("form", "text", "body"),
    [
        (TAGS, "<reasoning>why</reasoning><answer>\n  x = 1\n</answer>", "\n  x = 1\n"),
        (TAGS, "<answer>no</answer> wait <answer>yes", "yes"),
        (TAGS, "no block", "no block"),
        (HASH, "x = 1  #### a heading\ny = 2", "x = 1  #### a heading\ny = 2"),
    ],
)
def test_the_answer_at_full_length(form: AnswerFormat, text: str, body: str) -> None:
    assert form.body(text) == body


@pytest.mark.parametrize(
    ("form", "text", "strict", "loose"),
    [
        (TAGS, GOOD_TAGS, True, True),
        (TAGS, GOOD_TAGS + "\n", True, True),
        (TAGS, GOOD_TAGS + "\nmore", False, True),
        (TAGS, "Sure. " + GOOD_TAGS, False, True),
        (TAGS, GOOD_TAGS.replace("\n", ""), False, True),
        (TAGS, GOOD_TAGS.replace("8\n</answer>", "\n</answer>"), False, True),
        (TAGS, GOOD_TAGS + GOOD_TAGS, False, True),
        (TAGS, "<answer>8</answer><reasoning>late</reasoning>", False, False),
        (TAGS, "<reasoning>x</reasoning> so <answer>8</answer>", False, False),
        (TAGS, "8", False, False),
        (HASH, GOOD_HASH, True, True),
        (HASH, GOOD_HASH + "\n", True, True),
        (HASH, GOOD_HASH + " apples", False, True),
        (HASH, "#### 8", False, True),
        (HASH, "It is ####$8", False, True),
        (HASH, "a\n#### 7\n#### 8", False, True),
        (HASH, "a\n#### eight", False, False),
        (HASH, "8", False, False),
    ],
)
def test_formats(form: AnswerFormat, text: str, strict: bool, loose: bool) -> None:
    assert (form.strict_format(text), form.loose_format(text)) == (strict, loose)


@pytest.mark.parametrize(
    ("form", "text", "credit"),
    [
        (TAGS, GOOD_TAGS, 1.0),
        (TAGS, GOOD_TAGS + "\n", 1.0),
        (TAGS, GOOD_TAGS + "\n" + "x" * 10, 0.98),
        (TAGS, GOOD_TAGS + "x" * 1000, -1.0),
        (TAGS, "<reasoning>\nonly this", 0.25),
        (TAGS, "<reasoning>\n<reasoning>\n", 0.0),
        (TAGS, "<reasoning>x</reasoning><answer>8</answer>", 0.0),
        (TAGS, "8", 0.0),
        (HASH, GOOD_HASH, 1.0),
        (HASH, GOOD_HASH + "\n", 1.0),
        (HASH, GOOD_HASH + " apples", 0.986),
        (HASH, "so #### 8", 0.5),
        (HASH, "#### 8\n#### 8", -0.012),
        (HASH, "8", 0.0),
    ],
)
def test_tag_credit(form: AnswerFormat, text: str, credit: float) -> None:
    assert form.tag_credit(text) == pytest.approx(credit)
