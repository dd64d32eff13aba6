"""Whether a text is Python, found out without running it."""

from __future__ import annotations

import ast
import warnings


def parsed(text: str) -> ast.Module:
    """The program's tree.

    Raises:
        SyntaxError: it is no Python, or more deeply nested than Python reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in 3.11 a DeprecationWarning, later a SyntaxWarning
            tree = ast.parse(text)
            compile(text, "<program>", "exec", dont_inherit=True)  # finds a `return` outside of def
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "nested too deep") from error
    return tree


def is_head(text: str) -> bool:
    """Whether a program can go on from here: it is one, or would be with a body for its last line.

    >>> is_head("def f(x):"), is_head("import math"), is_head("Write a function.")
    (True, True, False)
    """
    for program in (text, f"{text.rstrip()}\n    pass\n"):
        try:
            parsed(program)
        except SyntaxError:
            continue
        return True
    return False


def defined(text: str) -> set[str]:
    """The functions that a program defines at its top level.

    Raises:
        SyntaxError: it is no Python.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {statement.name for statement in parsed(text).body if isinstance(statement, kinds)}
