"""The reward of free-form answers (Dolly, Open-Platypus). Our choice: the paper doesn't say.

Where the reference comes down to a number, a choice or a word, that is right or wrong; else the
reward is the F1 of the words. What follows the last "####" is all that is read, of either side. A
reference comes down to such an answer if it

- is one: "42", "(B)", "B.", "(B) Paris", "yes";
- or ends with one: "... the answer is B", "... the correct answer is answer3", "\\boxed{42}".

A word is an answer only if it is yes, no, true or false, or ends in a digit ("answer3"). A number
somewhere in prose is none, and neither is "B. Paris", which may be a name: there F1 decides, and
tells it from "C. Lyon" too.

A completion may go on after its answer, so of it more is read, in this order: what it ends with, as
above; what follows the last "the answer is"; of a choice also "B is correct", and what stands at
the start if no other choice is marked later, for that is a list; of a number the last one.
"""

from __future__ import annotations

import re
from decimal import Decimal

from lorapar_core.answers import AnswerFormat
from lorapar_core.data.shapes import reference_of
from lorapar_core.numbers import find_numbers, parse_number
from lorapar_core.rewards.overlap import token_f1, words
from lorapar_core.row_tests import held_tests

_SAID = re.compile(
    r"\b(?:answer|(?:correct|right|best) (?:option|choice))\**(?: is\b|:)", re.IGNORECASE
)
_KIND = r"(?i:(?:the )?(?:option|choice|letter)\s+)"
_ENDED = r"(?=[.,;:!](?:\s|$)|\s*\n|\s*$|\s+(?:because|since|[-\u2013\u2014])\s)"
_LETTER = re.compile(rf"{_KIND}?[(\[]?([A-Ha-h])[)\]]?[.:]?")
_MARKED_CHOICE = re.compile(r"(?<!\w)[(\[]?([A-Ha-h])[)\]](?=\s|$)")
_LISTED_CHOICE = re.compile(r"(?<!\w)([A-H])[)\]]|^[ \t]*([A-H])[.:](?=\s|$)", re.MULTILINE)
_SAID_CHOICE = re.compile(rf"{_KIND}?(?:[(\[]([A-Ha-h])[)\]]|([A-H])(?:[)\]]|[*\"']*{_ENDED}))")
_FIRST_CHOICE = re.compile(
    rf"{_KIND}?(?:[(\[]?([A-H])[)\]]|([A-H])[.:](?=\s|$))|{_KIND}([A-H]){_ENDED}"
)
_RIGHT_CHOICE = re.compile(r"(?<!\w)[(\[]?([A-H])[)\]]?\** is (?:the )?(?:correct|right)\b")
_FIRST_WORD = re.compile(rf"(\w+)[*\"']*{_ENDED}")
_WORD = re.compile(r"\w+")
_CLAUSE_END = re.compile(r"[,.](?![0-9])|;|\n|\bbecause\b|\bsince\b")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FONT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_MATHS = re.compile(r"\\[()\[\]]")
_DECORATION = "*$\"' \t"


def free_form(completion: str, reference: str, form: AnswerFormat) -> float:
    """1 or 0 where the reference comes down to a number, a choice or a word, else the words' F1.

    Raises:
        ValueError: the reference holds tests, with which no answer can be compared.
    """
    if held_tests(reference) is not None:
        raise ValueError(
            "the row carries tests; use the reward `code` or `execution`, which run them"
        )
    body, expected = form.body(completion), final_answer(reference_of(reference))
    answer = reference_of(body)
    if expected is None:
        return token_f1(words(answer), words(reference_of(reference)))
    given = final_answer(answer)
    answer = _plain(answer)
    said = _after_said(answer) or (answer if "####" in body else "")
    if isinstance(expected, Decimal):
        found = given if isinstance(given, Decimal) else _number_in(said)
        return float((form.flexible(completion) if found is None else found) == expected)
    if given is None:
        given = _choice_in(answer, said) if len(expected) == 1 else _word_in(answer, said)
    return float(given == expected)


def final_answer(text: str) -> Decimal | str | None:
    """What the text comes down to, a number, or a choice or a word in small letters, or None.

    >>> final_answer("Paris is in France, so the answer is (B)."), final_answer("It has 2 parts.")
    ('b', None)
    """
    text = _plain(text)
    whole = _short(text)
    if whole is not None:
        return whole
    boxed = _BOXED.findall(text)
    return _short(boxed[-1] if boxed else _after_said(text))


def _plain(text: str) -> str:
    """The text without LaTeX's fonts and its marks of mathematics."""
    return _MATHS.sub("", _FONT.sub(r"\1", text)).strip()


def _after_said(text: str) -> str:
    """What follows the last "answer is", or nothing."""
    said = [match.end() for match in _SAID.finditer(text)]
    return text[said[-1] :].strip(f":\n{_DECORATION}") if said else ""


def _short(text: str) -> Decimal | str | None:
    """`text` as a number, a choice or a word, if that is all there is to it."""
    bare = text.strip(_DECORATION).rstrip(_DECORATION + ".")
    number = parse_number(bare)
    if number is not None:
        return number
    letter = _LETTER.fullmatch(bare)
    if letter is not None:
        return letter[1].lower()
    if _is_exact(bare):
        return bare.casefold()
    marked = _MARKED_CHOICE.findall(bare)
    # Two marks are a list, "a) bread, b) milk".
    alone = len(marked) == 1 and "\n" not in bare and _MARKED_CHOICE.match(bare) is not None
    return marked[0].lower() if alone else None


def _is_exact(text: str) -> bool:
    """Whether it is a word that is right or wrong as a whole."""
    named = text.casefold() in {"yes", "no", "true", "false"}
    return named or (_WORD.fullmatch(text) is not None and text[-1] in "0123456789")


def _number_in(said: str) -> Decimal | None:
    """The first number of what was said, or of a sum the last: "3 + 4 = 7, not 5"."""
    clause = _CLAUSE_END.split(said, maxsplit=1)[0]
    numbers = find_numbers(clause.rpartition("=")[2]) or find_numbers(said)
    return numbers[0] if numbers else None


def _choice_in(text: str, said: str) -> str | None:
    found = _SAID_CHOICE.match(said) or [*_RIGHT_CHOICE.finditer(text)][-1:]
    if found:
        return _letter(found if isinstance(found, re.Match) else found[0])
    start = _FIRST_CHOICE.match(text.strip(_DECORATION + "\n"))
    listed = {_letter(match) for match in _LISTED_CHOICE.finditer(text)}
    alone = start is not None and listed <= {_letter(start)}
    return _letter(start) if start is not None and alone else None


def _letter(found: re.Match[str]) -> str:
    return next(letter for letter in found.groups() if letter).lower()


def _word_in(text: str, said: str) -> str | None:
    found = _FIRST_WORD.match(said or text.strip(_DECORATION + "\n"))
    return None if found is None else found[1].casefold()
