"""The rewards of code. Our choice: the paper doesn't say.

A row that carries tests (`data.columns.tests`) is checked by running them in a sandbox. One without
(CodeAlpaca) is compared with its reference: part of the reward if the completion compiles, the rest
by the F1 of its tokens. Only where the reference is Python itself, for CodeAlpaca has other
languages and answers in words too: there F1 is all.
"""

from __future__ import annotations

import re
import textwrap

from lorapar_core.answers import AnswerFormat
from lorapar_core.config import Sandbox
from lorapar_core.python_source import parsed
from lorapar_core.rewards.overlap import code_tokens, token_f1
from lorapar_core.row_tests import held_tests
from lorapar_core.sandbox import passes

SYNTAX_SHARE = 0.25
"""The part of `code` that a completion earns by compiling."""

_FENCE = re.compile(r"(.*[ \t])?(`{3,}|~{3,})[ \t]*([\w+#.-]*)([^`]*)")
_PYTHON = frozenset({"python", "py", "python3", "py3"})


def code(
    completion: str, reference: str, form: AnswerFormat, *, sandbox: Sandbox = "isolated"
) -> float:
    """As `execution` where the row carries tests, else part for syntax and part for F1."""
    tests, program = held_tests(reference), program_of(completion, form)
    if tests is not None:
        return float(passes(program, tests, sandbox=sandbox))
    f1 = token_f1(code_tokens(program), code_tokens(program_in(reference)))
    if not compiles(program_in(reference)):
        return f1
    return SYNTAX_SHARE * compiles(program) + (1 - SYNTAX_SHARE) * f1


def execution(
    completion: str, reference: str, form: AnswerFormat, *, sandbox: Sandbox = "isolated"
) -> float:
    """1 if the completion passes the row's tests.

    Raises:
        ValueError: the row carries no tests.
        SandboxError: it can't be run.
    """
    tests = held_tests(reference)
    if tests is None:
        raise ValueError(
            "the row carries no tests; give it some, or use the reward `code`, which compares such "
            "rows with their answer"
        )
    return float(passes(program_of(completion, form), tests, sandbox=sandbox))


def program_of(completion: str, form: AnswerFormat) -> str:
    """The program that a completion's answer gives."""
    return program_in(form.body(completion))


def program_in(text: str) -> str:
    """Of the fenced blocks the first that is marked as Python, or else the last without a mark, or
    else the last; without any all of the text. Indentation common to its lines is taken off."""
    blocks = fenced_blocks(text)
    python = [block for language, block in blocks if language in _PYTHON]
    unmarked = [block for language, block in blocks if not language]
    last = [block for _, block in blocks]
    chosen = python[:1] or unmarked[-1:] or last[-1:] or [text]
    return textwrap.dedent(chosen[0])


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each block between fences of ``` or ~~~.

    A line that is nothing but its fence closes a block, or else the end of the text.
    """
    blocks: list[tuple[str, str]] = []
    fence, language, held = "", "", [""]
    for line in text.split("\n"):
        bare = line.strip()
        if fence and bare.startswith(fence) and not bare.strip(fence[0]):
            blocks.append((language, "\n".join([*held, ""])))
            fence = ""
        elif fence:
            held.append(line)
        elif opening := _FENCE.fullmatch(line):
            before, mark, name, more = opening.groups()
            if not (before or "").strip() or not more.strip():
                fence, language, held = mark, name.lower(), []
    return [*blocks, (language, "\n".join(held))] if fence else blocks


def compiles(program: str) -> bool:
    """Whether the text is a Python program that says anything; it is not run."""
    try:
        return bool(parsed(program).body)
    except SyntaxError:
        return False
