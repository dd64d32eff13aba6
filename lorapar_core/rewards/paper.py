"""The paper's five rewards.

After the authors' script, except that a right answer is right however its number is written
("1,234", "$12", "-5", "12.0"), and that the credit for marks also exists for the `####` format.
Evaluation's *strict* figure is lm-evaluation-harness's and reads "#### 12 apples" too, which earns
nothing here, but not "#### $12"; its *flexible* figure reads both.
Nothing here raises on any text.
"""

from __future__ import annotations

from lorapar_core.answers import AnswerFormat, matches
from lorapar_core.numbers import parse_number


def correctness(completion: str, reference: str, form: AnswerFormat) -> float:
    """1 if what is marked as the answer is the reference. An unmarked answer earns nothing."""
    return float(matches(form.marked_text(completion), reference))


def integer(completion: str, reference: str, form: AnswerFormat) -> float:
    """1 if what is marked as the answer is a whole number, right or wrong."""
    marked = form.marked_text(completion)
    number = None if marked is None else parse_number(marked)
    return float(number is not None and number == number.to_integral_value())


def strict_format(completion: str, reference: str, form: AnswerFormat) -> float:
    """1 if the completion has the format to the letter."""
    return float(form.strict_format(completion))


def loose_format(completion: str, reference: str, form: AnswerFormat) -> float:
    """1 if the format's parts are there in order."""
    return float(form.loose_format(completion))


def tag_credit(completion: str, reference: str, form: AnswerFormat) -> float:
    """Part of 1 for each mark, less for what trails the answer."""
    return form.tag_credit(completion)
