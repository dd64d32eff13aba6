"""How a completion gives its answer, and whether that answer is right.

Two formats. HASH is GSM8K's: worked lines, then `#### N`. TAGS is the paper's for GRPO:
`<reasoning>` and `<answer>` blocks. Each reads an answer in two ways:

- *strict* takes only what stands where the format says. For HASH this is lm-evaluation-harness's
  `#### (\\-?[0-9\\.\\,]+)`, first match, commas and a final full stop taken off.
- *flexible* takes what a reader would take: the last number.

Every check here needs time linear in the completion's length, and none raises on any text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Protocol

from lorapar_core.numbers import find_numbers, parse_number

TRAILING_PENALTY = 0.002
"""Taken off `tag_credit` for each character after the answer; its weight of 0.5 makes it the
paper's 0.001."""


class Given(str):
    """What a completion gives as its answer, as text, and the number it is read as."""

    number: Decimal | None

    def __new__(cls, text: str, number: Decimal | None) -> Given:
        given = super().__new__(cls, text)
        given.number = number
        return given


class AnswerFormat(Protocol):
    """Where an answer stands in a completion."""

    @property
    def name(self) -> str: ...

    def strict(self, text: str) -> Decimal | None:
        """The number that stands where the format says, or None."""

    def strict_text(self, text: str) -> Given | None:
        """What stands where the format says, whether number or words, or None."""

    def flexible(self, text: str) -> Decimal | None:
        """The number a reader would take, or None."""

    def flexible_text(self, text: str) -> Given:
        """What is marked as the answer, or else the whole text, with the number of `flexible`."""

    def marked_text(self, text: str) -> str | None:
        """What is marked as the answer, however loosely, or None."""

    def body(self, text: str) -> str:
        """The answer at full length: what stands in the last answer block, or else all of it."""

    def strict_format(self, text: str) -> bool:
        """Whether the whole completion has the format to the letter."""

    def loose_format(self, text: str) -> bool:
        """Whether the format's parts are there in order."""

    def tag_credit(self, text: str) -> float:
        """Partial credit for the format's marks, at most 1; negative where much text trails."""


def _trailing(rest: str) -> float:
    """The penalty for what follows the answer; one newline is free."""
    return TRAILING_PENALTY * len(rest.removeprefix("\n"))


_HASH_NUMBER = re.compile(r"#### (-?[0-9.,]+)")
_HASH_LOOSE = re.compile(r"####[^\S\n]*[-\N{MINUS SIGN}+$€£¥]{0,2}[0-9.]")
_HASH_END = re.compile(r"####[^\S\n]*[-\N{MINUS SIGN}+$€£¥]{0,2}[0-9.,]*%?")


@dataclass(frozen=True, slots=True)
class _Hash:
    name: str = "hash"

    def strict(self, text: str) -> Decimal | None:
        match = _HASH_NUMBER.search(text)
        if match is None:
            return None
        try:
            return Decimal(match[1].replace(",", "").removesuffix("."))
        except InvalidOperation:
            return None

    def strict_text(self, text: str) -> Given | None:
        line = self._after(text, "#### ")
        return None if line is None else Given(line, self.strict(text))

    def flexible(self, text: str) -> Decimal | None:
        numbers = find_numbers(text)
        return numbers[-1] if numbers else None

    def flexible_text(self, text: str) -> Given:
        return Given(text.rpartition("####")[2].strip(), self.flexible(text))

    def marked_text(self, text: str) -> str | None:
        return self._after(text, "####")

    def body(self, text: str) -> str:
        return text

    def strict_format(self, text: str) -> bool:
        work, mark, rest = text.removesuffix("\n").partition("\n####")
        return (
            bool(mark)
            and bool(work.strip())
            and "####" not in work + rest
            and _HASH_NUMBER.fullmatch("####" + rest) is not None
        )

    def loose_format(self, text: str) -> bool:
        return _HASH_LOOSE.search(text) is not None

    def tag_credit(self, text: str) -> float:
        match = _HASH_END.search(text)
        if match is None:
            return 0.0
        once = text.count("####") == 1
        at_line_start = match.start() == 0 or text[match.start() - 1] == "\n"
        return 0.5 * once + 0.5 * (once and at_line_start) - _trailing(text[match.end() :])

    @staticmethod
    def _after(text: str, mark: str) -> str | None:
        _, found, rest = text.partition(mark)
        return rest.strip().partition("\n")[0].strip() if found else None


_TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_TAGS_WITH_NEWLINES = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
_BETWEEN = re.compile(r"</reasoning>\s*<answer>")


@dataclass(frozen=True, slots=True)
class _Tags:
    name: str = "tags"

    def strict(self, text: str) -> Decimal | None:
        answer = self.strict_text(text)
        return None if answer is None else answer.number

    def strict_text(self, text: str) -> Given | None:
        if text.count("<answer>") != 1 or text.count("</answer>") != 1:
            return None
        answer, closed, _ = text.partition("<answer>")[2].partition("</answer>")
        return Given(answer.strip(), parse_number(answer)) if closed else None

    def flexible(self, text: str) -> Decimal | None:
        marked = self.marked_text(text)
        for part in (marked, text):
            numbers = find_numbers(part) if part is not None else []
            if numbers:
                return numbers[-1]
        return None

    def flexible_text(self, text: str) -> Given:
        marked = self.marked_text(text)
        return Given(text.strip() if marked is None else marked, self.flexible(text))

    def marked_text(self, text: str) -> str | None:
        _, opened, rest = text.rpartition("<answer>")
        return rest.partition("</answer>")[0].strip() if opened else None

    def body(self, text: str) -> str:
        _, opened, rest = text.rpartition("<answer>")
        return rest.partition("</answer>")[0] if opened else text

    def strict_format(self, text: str) -> bool:
        body = text.removesuffix("\n")
        inner = body.removeprefix("<reasoning>\n").removesuffix("\n</answer>")
        reasoning, middle, answer = inner.partition("\n</reasoning>\n<answer>\n")
        return (
            all(text.count(tag) == 1 for tag in _TAGS)
            and body.startswith("<reasoning>\n")
            and body.endswith("\n</answer>")
            and bool(middle)
            and bool(reasoning.strip())
            and bool(answer.strip())
        )

    def loose_format(self, text: str) -> bool:
        _, opened, rest = text.partition("<reasoning>")
        between = _BETWEEN.search(rest) if opened else None
        return between is not None and "</answer>" in rest[between.end() :]

    def tag_credit(self, text: str) -> float:
        credit = sum(0.25 for tag in _TAGS_WITH_NEWLINES if text.count(tag) == 1)
        _, closed, rest = text.partition("</answer>")
        return credit - _trailing(rest) if closed else credit


HASH: AnswerFormat = _Hash()
TAGS: AnswerFormat = _Tags()

_BY_NAME = {form.name: form for form in (HASH, TAGS)}


def answer_format(name: str) -> AnswerFormat:
    """The format called `name`: `hash` or `tags`.

    Raises:
        ValueError: there is none.
    """
    if name not in _BY_NAME:
        raise ValueError(f"no answer format {name!r}; known: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def _normalised(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.strip("\"'").removesuffix(".").strip()


def matches(found: Decimal | str | None, reference: str) -> bool:
    """Whether `found` is the reference: as a number where that is one, else as text.

    Text is compared without regard to case, white space, quotation marks around it and a final
    full stop. A number never equals a reference that is no number.
    """
    if found is None:
        return False
    expected = parse_number(reference)
    if expected is not None:
        if isinstance(found, Given):
            value = found.number
        else:
            value = parse_number(found) if isinstance(found, str) else found
        return value is not None and value == expected
    return isinstance(found, str) and _normalised(found) == _normalised(reference)


def is_right(text: str, reference: str, form: AnswerFormat, *, strict: bool) -> bool:
    """Whether the completion `text` answers with `reference`, as evaluation counts it."""
    return matches(form.strict_text(text) if strict else form.flexible_text(text), reference)
