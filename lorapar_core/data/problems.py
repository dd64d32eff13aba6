"""Problems that a benchmark asks: a row of a published set, or of a file, and its usual wording.

Three kinds. `generate`: the model writes, and its answer is compared with the reference. `choice`:
whichever letter the model finds likeliest after the prompt (Hendrycks et al. 2021, "Measuring
massive multitask language understanding"). `code`: the model goes on from a function's head, and
tests run what comes out (Chen et al. 2021, "Evaluating large language models trained on code").

The wording is lm-evaluation-harness's for GSM8K, MMLU and HumanEval, so that figures can be
compared with published ones; SVAMP has GSM8K's. A file's prompt stands as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from lorapar_core.data.rows import Row
from lorapar_core.data.shapes import EmptyRow, example_from
from lorapar_core.errors import DataError
from lorapar_core.python_source import defined
from lorapar_core.row_tests import as_reference

Kind = Literal["generate", "choice", "code"]
WORDING = 1
"""Raised when a wording below changes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, and what a worked example of it would show."""

    kind: Kind
    question: str
    """As the row has it: what a chat turn or SFT's prompt asks."""
    prompt: str
    """The question in its plain wording, without worked examples."""
    reference: str = ""
    """The answer; of a choice its letter; of code nothing."""
    solution: str = ""
    """What stands right after the prompt in a worked example."""
    group: str = ""
    """MMLU's subject."""
    choices: tuple[str, ...] = ()
    tests: str = ""
    """Of code: Python that defines `check(candidate)`, or that runs by itself."""
    entry_point: str = ""
    """Of code: the function that `check` is given; empty where the tests run by themselves."""

    @property
    def content(self) -> str:
        """What is asked and how it is checked, as one text."""
        parts = [self.kind, self.group, self.question, self.reference, self.tests, self.entry_point]
        return json.dumps([*parts, *self.choices], ensure_ascii=False)


def read_problems(rows: Iterable[tuple[str, Row]], *, task: str) -> list[Problem]:
    """Problems of a task's rows, each with the place it stands at.

    Raises:
        DataError: a row can't be used, and which; rows of different kinds; or there are none.
    """
    read = _READERS[task]
    found: list[Problem] = []
    for place, row in rows:
        problem = read(row, place)
        if found and problem.kind != found[0].kind:
            raise DataError(
                f"{place}: a row of kind {problem.kind} among rows of kind {found[0].kind}; give "
                "each kind a file, and a benchmark, of its own"
            )
        for text in (problem.question, problem.reference, *problem.choices, problem.tests):
            _require_text(text, place)
        found.append(problem)
    if not found:
        raise DataError(f"the source of a {task} benchmark holds no problems")
    return found


def with_ids(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Id -> problem, in their order.

    An id is half the sha256 of what is asked and how it is checked, so that it is the same with
    other shots. Published sets repeat some problems, and count them: the nth has n in its id.
    """
    found: dict[str, Problem] = {}
    seen = Counter[str]()
    for problem in problems:
        content = problem.content
        seen[content] += 1
        if seen[content] > 1:
            content += f" {seen[content]}"
        found[hashlib.sha256(content.encode()).hexdigest()[:32]] = problem
    return found


def header(group: str, kind: Kind) -> str:
    """What stands before all worked examples of a group: MMLU's first line, else nothing."""
    if kind != "choice":
        return ""
    about = f" about {group.replace('_', ' ')}" if group else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def prefix(shots: Sequence[Problem], *, group: str, kind: Kind) -> str:
    """All that stands before a problem's prompt."""
    shown = "".join(f"{shot.prompt}{shot.solution}\n\n" for shot in shots)
    return header(group, kind) + shown


def stops(task: str, kind: Kind) -> list[str]:
    """What ends a plain answer, beside the end of the text; the answer is what stands before. Of a
    user's own questions nobody knows it."""
    return list(_STOPS.get("humaneval" if kind == "code" else task, ()))


_STOPS: Mapping[str, tuple[str, ...]] = {
    "gsm8k": ("Question:",),
    "svamp": ("Question:",),
    "humaneval": ("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
}


def _worded(row: Row, place: str) -> Problem:
    """GSM8K's and SVAMP's rows, and the wording of both."""
    try:
        example = example_from(row, place=place)
    except EmptyRow as error:
        raise DataError(str(error)) from error
    return Problem(
        kind="generate",
        question=example.prompt,
        prompt=f"Question: {example.prompt}\nAnswer:",
        reference=example.reference,
        solution=f" {example.answer}",
    )


def _verbatim(row: Row, place: str) -> Problem:
    found = _worded(row, place)
    answer = found.solution.removeprefix(" ")
    return Problem("generate", found.question, found.question, found.reference, f"\n{answer}")


def _mmlu(row: Row, place: str) -> Problem:
    problem = _choice(row, place)
    if not problem.group:
        raise DataError(f"{place}: no subject; an MMLU row names its subject")
    return problem


def _choice(row: Row, place: str) -> Problem:
    question = _text(row, place, "question", "prompt").strip()
    choices = row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{place}: choices are {type(choices).__name__}, expected a list of texts")
    if not 2 <= len(choices) <= len(ascii_uppercase):
        raise DataError(f"{place}: {len(choices)} choices; expected 2 to {len(ascii_uppercase)}")
    letters = ascii_uppercase[: len(choices)]
    answer = letters[_index(row.get("answer"), choices, place)]
    lines = "".join(f"\n{letter}. {text}" for letter, text in zip(letters, choices, strict=True))
    return Problem(
        kind="choice",
        question=question,
        prompt=f"{question}{lines}\nAnswer:",
        reference=answer,
        solution=f" {answer}",
        group=_text(row, place, "subject", "group", missing=""),
        choices=tuple(choices),
    )


def _index(answer: Any, choices: list[str], place: str) -> int:
    """The position that a row's answer names: by number from 0, by letter, or by the choice."""
    letters = ascii_uppercase[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str) and answer.strip():
        named = {k for k, choice in enumerate(choices) if choice.strip() == answer.strip()}
        if len(answer.strip()) == 1 and answer.strip().upper() in letters:
            named.add(letters.index(answer.strip().upper()))
        if len(named) == 1:
            return named.pop()
    raise DataError(
        f"{place}: the answer {answer!r} names no single choice; give its position from 0 to "
        f"{len(choices) - 1}, its letter from A to {letters[-1]}, or its text"
    )


def _humaneval(row: Row, place: str) -> Problem:
    problem = _code(row, place)
    if not problem.entry_point:
        raise DataError(f"{place}: no entry_point; a HumanEval row names the function it tests")
    return problem


def _code(row: Row, place: str) -> Problem:
    prompt = _text(row, place, "prompt", "question")
    tests = next((row[name] for name in ("test", "tests") if row.get(name) is not None), None)
    if isinstance(tests, list) and all(isinstance(part, str) for part in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str) or not tests.strip():
        raise DataError(f"{place}: the tests are {type(tests).__name__}, expected Python as text")
    entry_point = _text(row, place, "entry_point", missing="")
    try:
        if entry_point and "check" not in defined(tests):
            raise DataError(
                f"{place}: it has an entry_point, and its tests define no check(candidate); define "
                "it, or leave entry_point out"
            )
        # Tests that only define `check` are called with the entry point.
        as_reference(f"{tests}\ncheck({entry_point})" if entry_point else tests)
    except SyntaxError as error:
        raise DataError(f"{place}: the tests are no Python ({error})") from error
    except ValueError as error:
        raise DataError(f"{place}: the tests test nothing: {error}") from error
    return Problem("code", prompt, prompt, tests=tests, entry_point=entry_point)


def _own(row: Row, place: str) -> Problem:
    """A row of a user's file, of whichever kind its fields say."""
    if row.get("choices") is not None:
        return _choice(row, place)
    if row.get("tests") is not None or row.get("test") is not None:
        return _code(row, place)
    return _verbatim(row, place)


def _text(row: Row, place: str, *names: str, missing: str | None = None) -> str:
    """The first of the named fields that is there."""
    value = next((row[name] for name in names if row.get(name) is not None), missing)
    if value is None or (missing is None and isinstance(value, str) and not value.strip()):
        raise DataError(f"{place}: no {' or '.join(names)}; found {sorted(row)}")
    if not isinstance(value, str):
        raise DataError(f"{place}: {names[0]} is {type(value).__name__}, expected text")
    return value


def _require_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: holds half a surrogate pair ({error.reason})") from error


_READERS: Mapping[str, Callable[[Row, str], Problem]] = {
    "gsm8k": _worded,
    "svamp": _worded,
    "mmlu": _mmlu,
    "humaneval": _humaneval,
    "file": _own,
}
