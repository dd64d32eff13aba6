"""Tests that a row carries: Python that the reference holds in place of an answer.

A first line marks them, so that an answer is never run for tests: most answers raise nothing, and
every completion would pass. For the same reason tests that only define something are refused:
pytest's functions, or HumanEval's `def check(candidate)` without its call.
"""

from __future__ import annotations

import ast
import builtins
import functools
import symtable
import sys

from lorapar_core.python_source import parsed

_MARK = "# lorapar: tests\n"
_BUILTINS = frozenset(dir(builtins))
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


@functools.lru_cache(maxsize=4096)
def names_taken(tests: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names that the tests take from the program, modules of the standard library that they use
    without importing them).

    A name of Python's own is never the program's, or it could bring a `sorted` or an `abs` of its
    own to be judged by; unless the tests name nothing else of it, as MBPP's for a task `sum`. Nor
    is a module's (`math.isclose`).

    Raises:
        SyntaxError: they are no Python.
    """
    tree = parsed(tests)
    free = _free_names(symtable.symtable(tests, "<tests>", "exec"))
    nodes = [*ast.walk(tree)]
    of_modules = {
        node.value.id
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    modules = free & sys.stdlib_module_names & of_modules - called
    own = free - modules - _BUILTINS
    return tuple(sorted(own or free & called)), tuple(sorted(modules))


def _free_names(table: symtable.SymbolTable) -> set[str]:
    """Names that are read somewhere and bound nowhere in the tests."""
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    tables, read = [table], set[str]()
    while tables:
        inner = tables.pop()
        tables += inner.get_children()
        top = inner.get_type() == "module"
        read |= {
            symbol.get_name()
            for symbol in inner.get_symbols()
            if symbol.is_referenced() and (top or symbol.is_global())
        }
    return read - bound
