"""Tests that a row carries: Python that the reference holds in place of an answer.

A first line marks them, so that an answer is never run for tests: most answers raise nothing, and
every completion would pass.
"""

from __future__ import annotations

from lorapar_core.python_source import parsed

_MARK = "# lorapar: tests\n"


def as_reference(tests: str) -> str:
    """The reference that holds `tests`.

    Raises:
        SyntaxError: they are no Python.
    """
    parsed(tests)
    return _MARK + tests


def held_tests(reference: str) -> str | None:
    """The tests that a reference holds, or None if it is an answer."""
    return reference.removeprefix(_MARK) if reference.startswith(_MARK) else None
