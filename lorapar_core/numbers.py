"""Numbers as people and models write them, read exactly.

`parse_number` takes one number with nothing around it but white space, a currency sign, a percent
sign or a final full stop. `find_numbers` takes every number of a running text. Both give
`Decimal`, so that 0.1 stays 0.1 and 3.50 equals 3.5. A percent sign is decoration: 12% reads 12.
Both need time linear in the text's length.
"""

from __future__ import annotations

import re
from decimal import Decimal

# Thousands are grouped by threes or not at all, and a grouped number doesn't begin with 0.
_GROUPED = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+"
_MINUS = "-\N{MINUS SIGN}"
_CURRENCY = "$€£¥"

_ONE = re.compile(
    rf"(?P<sign>[{_MINUS}+]?)\s?(?:[{_CURRENCY}]\s?(?P<inner>[{_MINUS}]?))?"
    rf"(?P<digits>(?:{_GROUPED}|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?:\s?%\.?)?"
)

# A minus is a sign unless it stands right after an operand, where it subtracts.
_MANY = re.compile(
    rf"(?P<sign>(?<![\w)\]%.])[{_MINUS}])?[{_CURRENCY}]?(?P<inner>(?<=[{_CURRENCY}])[{_MINUS}])?"
    rf"(?P<digits>(?:{_GROUPED}(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
)


def _decimal(match: re.Match[str]) -> Decimal:
    value = Decimal(match["digits"].replace(",", ""))
    negative = (match["sign"] or "") in tuple(_MINUS) or (match["inner"] or "") in tuple(_MINUS)
    # `-value` would round to the context's precision.
    return value.copy_negate() if negative and value else value


def parse_number(text: str) -> Decimal | None:
    """The one number that `text` is, or None.

    Reads "1,234", "$12", "-$5", "$-5", "3.50", "12.", "12%" and the Unicode minus; refuses
    "1,23", "1.2.3", "--5", "-$-5", "12 apples" and the empty text.
    """
    match = _ONE.fullmatch(text.strip())
    if match is None or (match["sign"] and match["inner"]):
        return None
    return _decimal(match)


def find_numbers(text: str) -> list[Decimal]:
    """Every number in `text`, from left to right: "3-4" gives 3 and 4, "x = -4" gives -4."""
    return [_decimal(match) for match in _MANY.finditer(text)]


def plain(number: Decimal) -> str:
    """`number` in digits, without an exponent, grouping or needless zeros: "3.5", "-1200"."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("", "-0", "-") else text
