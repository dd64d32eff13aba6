"""The forms in which a teacher may be asked to reply, and how each is read.

    schema     JSON that the provider holds to a schema with two values
    logprobs   one digit, with the log-probabilities of both
    text       one line, read strictly

A reply that is just a label counts in any form; anything else is no vote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

Form = Literal["schema", "logprobs", "text"]

ASK: dict[Form, str] = {
    "schema": 'Reply with JSON, {"system": "System 1"} or {"system": "System 2"}.',
    "logprobs": "Reply with one digit, 1 or 2.",
    "text": "Reply with one line, System 1 or System 2.",
}
AGAIN = "That is not one of the two replies. "
LIKELY_TOKENS = 8
"""Of a completion, for a plan; a model that reasons first takes many more."""
_MARKS = " \t\r\n*_`\"'"
_FENCE = re.compile(r"```(?:json)?(.*?)```", re.DOTALL | re.IGNORECASE)
"""What chat models put around a word: `**System 2**`, a block of code."""
_BARE = re.compile(r"\s*(?:system\s*)?([12])\s*(?:\.\s*)?", re.IGNORECASE)
_RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "vote",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"system": {"type": "string", "enum": ["System 1", "System 2"]}},
            "required": ["system"],
            "additionalProperties": False,
        },
    },
}
REQUEST: dict[Form, dict[str, Any]] = {
    "schema": {"response_format": _RESPONSE_FORMAT},
    "logprobs": {"logprobs": True, "top_logprobs": 5},
    "text": {},
}
"""What a request in that form has beside its messages."""


def parse_reply(reply: str) -> int | None:
    """1 or 2 if the reply is just that (`System 2`, `2`, `{"system": "System 2"}`), else None.

    >>> parse_reply("System 2"), parse_reply("System 1 or System 2")
    (2, None)
    """
    bare = _FENCE.sub(r"\1", reply.strip()).strip(_MARKS)
    found = _BARE.fullmatch(bare) or _BARE.fullmatch(_from_json(bare))
    return int(found[1]) if found else None


def _from_json(reply: str) -> str:
    if not reply.lstrip().startswith("{"):
        return ""
    try:
        pairs = json.loads(reply, object_pairs_hook=list)  # a dict would take the last of two
    except (ValueError, RecursionError):
        return ""
    return str(pairs[0][1]) if [name for name, _ in pairs] == ["system"] else ""


def digit_logprobs(top: Iterable[tuple[str, float]]) -> tuple[float, float] | None:
    """Log-probabilities (nats) of 1 and 2 among (token, log-probability), None if one is absent."""
    best: dict[str, float] = {}
    for token, logprob in top:
        digit = token.strip()
        best[digit] = max(best.get(digit, float("-inf")), logprob)
    return (best["1"], best["2"]) if {"1", "2"} <= best.keys() else None
