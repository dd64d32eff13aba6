"""Tests that a row carries: Python that the reference holds in place of an answer.

A first line marks them, so that an answer is never run for tests: most answers raise nothing, and
every completion would pass. For the same reason tests that only define something are refused:
pytest's functions, or HumanEval's `def check(candidate)` without its call.
"""

from __future__ import annotations

import ast

from lorapar_core.python_source import parsed

_MARK = "# lorapar: tests\n"
_DEFINES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Pass,
)


def as_reference(tests: str) -> str:
    """The reference that holds `tests`.

    Raises:
        SyntaxError: they are no Python.
        ValueError: they test nothing.
    """
    if not any(_does_something(statement) for statement in parsed(tests).body):
        raise ValueError(
            "they define things and run nothing, so every program would pass; add the calls, such "
            "as check(NAME)"
        )
    return _MARK + tests


def _does_something(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return not isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.If):  # the module is no main program in the sandbox
        return ast.unparse(statement.test) != "__name__ == '__main__'"
    return not isinstance(statement, _DEFINES)


def held_tests(reference: str) -> str | None:
    """The tests that a reference holds, or None if it is an answer."""
    return reference.removeprefix(_MARK) if reference.startswith(_MARK) else None
