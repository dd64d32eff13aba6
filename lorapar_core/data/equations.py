"""Small equations as data sets write them, such as SVAMP's "( ( 8.0 - 2.0 ) / 3.0 )".

Only numbers, brackets and + - * / are known. Values are exact fractions.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 200


def value_of(equation: str) -> Fraction | None:
    """What the equation gives, or None where it isn't one of the known kind."""
    if len(equation) > _LONGEST:
        return None
    try:
        return _value(ast.parse(equation.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    raise ValueError("neither a number nor one of + - * /")


def tidy(equation: str) -> str:
    """The equation as people write it: "(8 - 2) / 3"."""
    text = re.sub(r"([0-9])\.0+(?![0-9])", r"\1", equation.strip())
    text = re.sub(r"\(\s+", "(", re.sub(r"\s+\)", ")", text))
    return text[1:-1].strip() if _is_bracketed(text) else text


def _is_bracketed(text: str) -> bool:
    """Whether one pair of brackets stands around the whole text."""
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and place < len(text) - 1:
            return False
    return True
