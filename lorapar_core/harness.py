"""How EleutherAI's lm-evaluation-harness reads an answer to GSM8K, to the letter.

Its task gsm8k, version 3.0: two regexes, "[invalid]" where nothing is found, and `exact_match`
without commas, dollars, all up to "#### ", and a final full stop. Published figures are by these;
`answers` reads more forms of a number.
"""

from __future__ import annotations

import re

INVALID = "[invalid]"
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = tuple(map(re.compile, (",", r"\$", r"(?s).*#### ", r"\.$")))


def strict_match(text: str) -> str:
    """The number after the first "#### "."""
    match = _STRICT.search(text)
    return match[1].strip() if match else INVALID


def flexible_extract(text: str) -> str:
    """The last thing that looks like a number: "18." of "She makes 18."."""
    matches = _FLEXIBLE.findall(text)
    return next(filter(None, matches[-1])).strip() if matches else INVALID


def is_exact_match(extracted: str, reference: str) -> bool:
    """Whether they are the same text once what it ignores is taken out, and case."""
    return _plain(extracted) == _plain(reference)


def _plain(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()
