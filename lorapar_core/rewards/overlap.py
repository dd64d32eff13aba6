"""How much of a text is in another: F1 over their tokens, each counted as often as it stands.

With m and n tokens and c in common, precision is c/m, recall c/n, and F1 2c/(m + n): 1 for the same
tokens in any order, 0 for none in common. `words` reads prose as SQuAD's evaluation does (no case,
no punctuation, no English articles); `code_tokens` keeps all that code is made of. A language that
puts no spaces between words has few, long words here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = frozenset({"a", "an", "the"})
_CODE_TOKEN = re.compile(r"\w+|[^\w\s]")


def token_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of two lists of tokens, from 0 to 1; 0 if either is empty."""
    common = (Counter(found) & Counter(expected)).total()
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def words(text: str) -> list[str]:
    """The words of prose; of a text that is nothing but punctuation and articles, its parts."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(letter for letter in plain if unicodedata.category(letter)[0] not in "PS")
    return [word for word in bare.split() if word not in _ARTICLES] or plain.split()


def code_tokens(text: str) -> list[str]:
    """Names, numbers and single signs, in any programming language."""
    return _CODE_TOKEN.findall(text)
