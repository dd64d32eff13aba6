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

_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


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
    """The program that a completion gives: the first fenced block of its answer, or all of it."""
    return program_in(form.body(completion))


def program_in(text: str) -> str:
    """The first fenced block, or all of the text, without the indentation common to its lines."""
    fenced = _FENCED.search(text)
    return textwrap.dedent(fenced[1] if fenced else text)


def compiles(program: str) -> bool:
    """Whether the text is a Python program that says anything; it is not run."""
    try:
        return bool(parsed(program).body)
    except SyntaxError:
        return False
