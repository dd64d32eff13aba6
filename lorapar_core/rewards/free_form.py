"""The reward of free-form answers (Dolly, Open-Platypus). Our choice: the paper doesn't say.

Where the reference comes down to a choice or a number, that is right or wrong; else the reward is
the F1 of the words. A reference comes down to such an answer if it

- is one: "42", "#### 42", "(B)", "B.", "(B) Paris";
- or ends with one: "... the answer is B", "... the correct answer is answer3", "\\boxed{42}".

A number somewhere in prose is none, and neither is "B. Paris", which may be a name: there F1
decides, and tells it from "C. Lyon" too. Of a completion a choice is also read where it only stands
at the start, and a number is the last one if none is given as the answer.
"""

from __future__ import annotations

import re
from decimal import Decimal

from lorapar_core.answers import AnswerFormat
from lorapar_core.numbers import parse_number
from lorapar_core.rewards.overlap import token_f1, words

_LETTER = re.compile(r"[(\[]?([A-Ha-h])[)\]]?[.:]?")
_MARKED_CHOICE = re.compile(r"(?<!\w)[(\[]?([A-Ha-h])[)\]](?=\s|$)")
_STARTS_WITH_CHOICE = re.compile(r"[(\[]?([A-H])(?:[)\]]|[.:](?=\s|$))")
_SAID = re.compile(r"\banswer(?: is|:)[: ]+(\S[^\n]*)\Z", re.IGNORECASE)
_SAID_CHOICE = re.compile(r"\b[Aa]nswer(?: is|:)[: ]+[(\[]?([A-H])\b")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_WORD = re.compile(r"\w+")
_DECORATION = "*$\"' \t"


def free_form(completion: str, reference: str, form: AnswerFormat) -> float:
    """1 or 0 where the reference comes down to a choice or a number, else the words' F1."""
    body, expected = form.body(completion), final_answer(reference)
    if expected is None:
        return token_f1(words(body), words(reference))
    given = final_answer(body)
    if isinstance(expected, Decimal):
        found = given if isinstance(given, Decimal) else form.flexible(completion)
        return float(found is not None and found == expected)
    if given is None:
        given = _choice_in(body) if len(expected) == 1 else _one_word(body)
    return float(given == expected)


def final_answer(text: str) -> Decimal | str | None:
    """What the text comes down to, a number or a choice (in small letters), or None.

    >>> final_answer("Paris is in France, so the answer is (B)."), final_answer("It has 2 parts.")
    ('b', None)
    """
    text = text.strip()
    whole = _short(text)
    if whole is not None:
        return whole
    boxed = _BOXED.findall(text)
    if boxed:
        return _short(boxed[-1])
    said = _SAID.search(text.rpartition("\n")[2])
    if said is None:
        return None
    short = _short(said[1])
    return _one_word(said[1]) if short is None else short


def _short(text: str) -> Decimal | str | None:
    """`text` as a number or a choice, if that is all there is to it."""
    bare = text.strip(_DECORATION).rstrip(_DECORATION + ".")
    number = parse_number(bare)
    if number is not None:
        return number
    letter = _LETTER.fullmatch(bare)
    if letter is not None:
        return letter[1].lower()
    marked = _MARKED_CHOICE.findall(bare)
    # Two marks are a list, "a) bread, b) milk".
    alone = len(marked) == 1 and "\n" not in bare and _MARKED_CHOICE.match(bare) is not None
    return marked[0].lower() if alone else None


def _choice_in(text: str) -> str | None:
    said = _SAID_CHOICE.findall(text)
    if said:
        return str(said[-1]).lower()
    start = _STARTS_WITH_CHOICE.match(text.strip(_DECORATION + "\n"))
    return None if start is None else start[1].lower()


def _one_word(text: str) -> str | None:
    found = _WORD.fullmatch(text.strip(_DECORATION + ".\n"))
    return None if found is None else found[0].casefold()
