"""From a row to an example: which fields are the prompt and the answer.

Three shapes. prompt_answer: one field each (SVAMP's Body and Question too). alpaca: instruction,
optional input or context, output or response. messages: a conversation, whose last assistant turn
is the answer. `auto` looks at the field names, without regard to case; columns given by name win.

The answer of a prompt_answer row that is one number, typed as one or written as one, becomes a
worked answer, "#### N"; where the row also gives an equation with that value, "a - b = N\\n#### N".
The reference is what stands after the last "####", or else the whole answer; or the row's tests,
where it carries any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from lorapar_core.data.equations import tidy, value_of
from lorapar_core.data.rows import Row
from lorapar_core.errors import DataError
from lorapar_core.numbers import parse_number, plain
from lorapar_core.row_tests import as_reference

PROMPTS = ("prompt", "question", "problem")
ANSWERS = ("answer", "response", "completion", "output", "solution")
INSTRUCTIONS = ("instruction",)
CONTEXTS = ("input", "context")
OUTPUTS = ("output", "response")
MESSAGES = ("messages", "conversations")

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


class EmptyRow(DataError):
    """A row whose prompt or answer is empty. Published sets have a few."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a model is asked, the worked answer it learns, and the answer it is checked against."""

    prompt: str
    answer: str
    reference: str


def reference_of(answer: str) -> str:
    """The text after the last "####", or the whole answer where that is nothing."""
    return answer.rpartition("####")[2].strip() or answer.strip()


def example_from(
    row: Row, *, place: str, shape: str = "auto", columns: Mapping[str, str] | None = None
) -> Example:
    """Read one row. `place` ("train.csv line 7") names it in errors.

    Raises:
        EmptyRow: the prompt or the answer is empty.
        DataError: no such fields, or a field of the wrong type.
    """
    fields = _Fields(row, place, columns or {})
    chosen = _shape_of(fields) if shape == "auto" else shape
    if chosen == "messages":
        prompt, answer = _from_messages(fields)
    elif chosen == "alpaca":
        prompt, answer = _from_alpaca(fields)
    elif chosen == "prompt_answer":
        prompt, answer = _from_prompt_answer(fields)
    else:
        raise ValueError(f"no shape {shape!r}; known: auto, prompt_answer, alpaca, messages")
    # The first line's indentation may be code.
    prompt, answer = prompt.strip(), answer.strip("\r\n").rstrip()
    if not prompt:
        raise EmptyRow(f"{place}: the prompt is empty; fill it in or remove the row")
    if not answer.strip():
        raise EmptyRow(f"{place}: the answer is empty; fill it in or remove the row")
    tests = _tests(fields) if "tests" in fields.columns else ""
    for text in (prompt, answer, tests):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: holds half a surrogate pair ({error.reason})") from error
    reference = _checked_by(tests, place) if tests.strip() else reference_of(answer)
    return Example(prompt=prompt, answer=answer, reference=reference)


class _Fields:
    """A row's fields by our names for them."""

    def __init__(self, row: Row, place: str, columns: Mapping[str, str]) -> None:
        self.row, self.place, self.columns = row, place, columns
        self._by_lower = {name.lower(): name for name in reversed(row)}

    def key(self, ours: str, names: Sequence[str]) -> str | None:
        """The row's name for our field: the column the recipe gives, or the first that is there."""
        if ours in self.columns:
            name = self.columns[ours]
            if name not in self.row:
                raise DataError(
                    f"{self.place}: data.columns says {ours} is {name!r}, but the fields are "
                    f"{sorted(self.row)}"
                )
            return name
        for name in names:
            if name in self.row:
                return name
            if name in self._by_lower:
                return self._by_lower[name]
        return None

    def value(self, ours: str, names: Sequence[str]) -> Any:
        key = self.key(ours, names)
        if key is None:
            raise DataError(
                f"{self.place}: no field for the {ours}; expected {' or '.join(names)}, found "
                f"{sorted(self.row)}; name it in data.columns"
            )
        return self.row[key]

    def text(self, ours: str, names: Sequence[str]) -> str:
        value = self.value(ours, names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise DataError(f"{self.place}: the {ours} is {type(value).__name__}, expected text")
        return value


def _tests(fields: _Fields) -> str:
    """The row's tests as one text, of a list (MBPP's) one after another; a row may have none."""
    value = fields.value("tests", ())
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return fields.text("tests", ())


def _checked_by(tests: str, place: str) -> str:
    try:
        return as_reference(tests)
    except SyntaxError as error:
        raise DataError(f"{place}: the tests are no Python ({error})") from error
    except ValueError as error:
        raise DataError(f"{place}: the tests test nothing: {error}") from error


def _shape_of(fields: _Fields) -> str:
    if "messages" in fields.columns:
        return "messages"
    if "prompt" in fields.columns or "answer" in fields.columns:
        return "alpaca" if "context" in fields.columns else "prompt_answer"
    if fields.key("messages", MESSAGES):
        return "messages"
    if fields.key("instruction", INSTRUCTIONS):
        return "alpaca"
    return "prompt_answer"


def _from_prompt_answer(fields: _Fields) -> tuple[str, str]:
    body, question = fields.key("", ("body",)), fields.key("", ("question",))
    if body and question and "prompt" not in fields.columns:
        body_text = fields.text("body", ("body",)).strip()
        stop = "" if not body_text or body_text[-1] in ".!?," else "."
        prompt = f"{body_text}{stop} {fields.text('question', ('question',)).strip()}"
    else:
        prompt = fields.text("prompt", PROMPTS)
    answer = fields.value("answer", ANSWERS)
    number = parse_number(answer) if isinstance(answer, str) else _number(answer)
    if number is not None:
        return prompt, _worked(number, fields)
    return prompt, fields.text("answer", ANSWERS)


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(str(value))
    return number if number.is_finite() else None


def _worked(number: Decimal, fields: _Fields) -> str:
    key = fields.key("", ("equation",))
    equation = fields.row[key] if key else None
    last = f"#### {plain(number)}"
    # Some of SVAMP's equations don't give their answer; those would teach what is wrong.
    if isinstance(equation, str) and value_of(equation) == Fraction(number):
        return f"{tidy(equation)} = {plain(number)}\n{last}"
    return last


def _from_alpaca(fields: _Fields) -> tuple[str, str]:
    instruction = fields.text("prompt", (*INSTRUCTIONS, *PROMPTS))
    context = fields.text("context", CONTEXTS) if fields.key("context", CONTEXTS) else ""
    prompt = f"{instruction.strip()}\n\n{context.strip()}" if context.strip() else instruction
    return prompt, fields.text("answer", (*OUTPUTS, *ANSWERS))


def _from_messages(fields: _Fields) -> tuple[str, str]:
    turns = fields.value("messages", MESSAGES)
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{fields.place}: messages must be a list of turns with role and content")
    read = [_turn(turn, f"{fields.place}, turn {n}") for n, turn in enumerate(turns, start=1)]
    last = max((n for n, (role, _) in enumerate(read) if role == "assistant"), default=None)
    if last is None:
        raise DataError(f"{fields.place}: no assistant turn, so there is no answer")
    before = sorted(read[:last], key=lambda turn: turn[0] != "system")
    return "\n\n".join(text.strip() for _, text in before if text.strip()), read[last][1]


def _turn(turn: Any, place: str) -> tuple[str, str]:
    if isinstance(turn, dict):
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(role, str) and isinstance(text, str):
            return _ROLES.get(role, role), text
    raise DataError(f"{place}: expected a role and a content, both text")
