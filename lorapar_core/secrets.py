"""Keys stay out of everything that is written: what a teacher's server echoes, and what a library
says or raises, is told with its secrets crossed out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from lorapar_core.config import TeacherConfig

CROSSED_OUT = "***"
SHORTEST = 6
"""Characters of a secret: a shorter one would cross out ordinary words."""
SHORTEST_WORD = 8
"""Of a part of one, which a server may echo alone: `Bearer` is no secret."""


def secrets_of(teachers: Iterable[TeacherConfig], environment: Mapping[str, str]) -> list[str]:
    """Those keys and header values of teachers that are set, and their words, the longest first."""
    values = [environment.get(variable, "") for t in teachers for variable in t.variables]
    words = [word for value in values for word in value.split() if len(word) >= SHORTEST_WORD]
    found = {value for value in values if len(value) >= SHORTEST} | {*words}
    return sorted(found, key=lambda secret: (-len(secret), secret))


def crossing_out(secrets: Iterable[str]) -> Callable[[str], str]:
    """Text -> the same without these secrets, as they are and as JSON writes them."""
    forms = [form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])]

    def cross_out(text: str) -> str:
        for form in forms:
            text = text.replace(form, CROSSED_OUT)
        return text

    return cross_out
