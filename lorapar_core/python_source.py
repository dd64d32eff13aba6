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
