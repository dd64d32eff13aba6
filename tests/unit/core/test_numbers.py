"""Numbers as people write them, read exactly and in linear time."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from lorapar_core.numbers import find_numbers, parse_number, plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", "1234"),
        ("1,234,567.50", "1234567.5"),
        ("$12", "12"),
        ("$ 12", "12"),
        ("-5", "-5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("$-5", "-5"),
        ("-$5", "-5"),
        ("+7", "7"),
        ("3.50", "3.5"),
        (".5", "0.5"),
        ("12.", "12"),
        ("12%", "12"),
        ("12%.", "12"),
        (" 42 \n", "42"),
        ("007", "7"),
        ("0.1", "0.1"),
        ("-0", "0"),
    ],
)
def test_one_number_is_read(text: str, value: str) -> None:
    assert parse_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "abc", "1,23", "1234,567", "0,123", "1.2.3", "12 apples", "--5", "-$-5", "$"),
        *("1/2", "1e3", "5-3", "4 2", "NaN", "Infinity", "1_000", "٣", "1,234,", ","),
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3-4", ["3", "4"]),
        ("5 - 3 = 2", ["5", "3", "2"]),
        ("x = -4", ["-4"]),
        ("(3+4)-5", ["3", "4", "5"]),
        ("(-5)", ["-5"]),
        ("5--3", ["5", "-3"]),
        ("$-5, -$6 and 3-$4", ["-5", "-6", "3", "4"]),
        ("\N{MINUS SIGN}7", ["-7"]),
        ("<<48/2=24>>24 clips.", ["48", "2", "24", "24"]),
        ("It costs $1,234.50.", ["1234.5"]),
        ("1,23 and 1,2345", ["1", "23", "1", "2345"]),
        ("2024-01-05", ["2024", "1", "5"]),
        ("none at all", []),
    ],
)
def test_numbers_are_found_in_text(text: str, values: list[str]) -> None:
    assert find_numbers(text) == [Decimal(value) for value in values]


@pytest.mark.parametrize("unit", ["-", "1,", "1,000", "$", "1.", "0", " ", "-$-", "1,234,56"])
def test_time_is_linear(unit: str) -> None:
    began = time.perf_counter()
    text = unit * (400_000 // len(unit))
    find_numbers(text)
    parse_number(text)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("value", "text"),
    [("51.0", "51"), ("3.50", "3.5"), ("1E+3", "1000"), ("-0.0", "0"), ("100", "100")],
)
def test_plain_digits(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text
