"""A solution with one thing changed: a comparison, a number, an operator, a condition, a result.

What a mutant is worth is told by plain Python: it counts if its tests, run beside it in one
interpreter, fail within their time. Others are equivalent, or too slow to wait for, and the next
change takes their place; the last one returns None.
"""

from __future__ import annotations

import ast
import copy
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

from lorapar_core.sandbox import CodeCheck

_OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutants(program: str, entry_point: str) -> Iterator[str]:
    """Texts of the program with one change each, in the order of its text."""
    tree = ast.parse(program)
    for index in range(len([*ast.walk(tree)])):
        changed = copy.deepcopy(tree)
        if _change([*ast.walk(changed)][index]):
            yield ast.unparse(ast.fix_missing_locations(changed))
    yield f"{program}\ndef {entry_point}(*arguments):\n    return None\n"


def _change(node: ast.AST) -> bool:
    match node:
        case ast.Compare(ops=[first, *others]) if type(first) in _OTHER:
            node.ops = [_OTHER[type(first)](), *others]
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in _OTHER:
            node.op = _OTHER[type(node.op)]()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)):
            node.value = value + 1
        case ast.Return(value=ast.expr() as value):
            node.value = ast.List([value], ast.Load())
        case _:
            return False
    return True


def failing_mutant(check: CodeCheck) -> CodeCheck:
    """The first mutant of the program that its tests find out."""
    for program in mutants(check.program, check.entry_point):
        mutant = CodeCheck(program, check.tests, check.entry_point, check.helpers)
        if plainly(mutant) == "fails":
            return mutant
    raise ValueError(f"the tests of {check.entry_point} pass a function that returns None")


def plainly(check: CodeCheck, *, seconds: int = 1) -> str:
    """Whether it "passes", "fails" or "runs on" in one fresh process of ours, with nothing around
    it: for programs that mean no harm."""
    process = os.fork()
    if process:
        status = os.waitpid(process, 0)[1]
        if os.WIFSIGNALED(status):
            return "runs on"
        return "passes" if os.WEXITSTATUS(status) == 0 else "fails"
    try:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        program: dict[str, Any] = {"__name__": "program"}
        tests: dict[str, Any] = {"__name__": "tests"}
        exec(compile(check.program, "<program>", "exec", dont_inherit=True), program)
        exec(compile(check.helpers, "<helpers>", "exec", dont_inherit=True), tests)
        tests[check.entry_point] = candidate = program[check.entry_point]
        exec(compile(check.tests, "<tests>", "exec", dont_inherit=True), tests)
        tests["check"](candidate)
    except BaseException:  # noqa: BLE001 - whatever it raises, it is no pass
        os._exit(1)
    os._exit(0)
