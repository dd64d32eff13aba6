"""Keys stay out of everything that is written: what a teacher's server echoes, and what a library
says or raises, is told with its secrets crossed out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lorapar_core.config import TeacherConfig

CROSSED_OUT = "***"
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
SHORTEST = 6
"""Characters of a secret: a shorter one would cross out ordinary words."""
SHORTEST_WORD = 8
"""Of a part of one, which a server may echo alone: `Bearer` is no secret."""


def secrets_of(teachers: Iterable[TeacherConfig], environment: Mapping[str, str]) -> list[str]:
    """What stands in variables that teachers name or that are called KEY, TOKEN, SECRET or
    PASSWORD (litellm takes a provider's own), and its words, the longest first."""
    named = {variable for teacher in teachers for variable in teacher.variables}
    named |= {variable for variable in environment if _SECRET.search(variable)}
    values = [environment.get(variable, "") for variable in sorted(named)]
    words = [word for value in values for word in value.split() if len(word) >= SHORTEST_WORD]
    found = {value for value in values if len(value) >= SHORTEST} | {*words}
    return sorted(found, key=lambda secret: (-len(secret), secret))


def crossing_out(secrets: Iterable[str]) -> Callable[[Any], Any]:
    """A JSON value -> the same with these secrets crossed out of all its texts but names: as they
    are, and as they stand in JSON that a text quotes (an error's body)."""
    forms = [form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])]

    def cross_out(value: Any) -> Any:
        if isinstance(value, str):
            for form in forms:
                value = value.replace(form, CROSSED_OUT)
            return value
        if isinstance(value, dict):
            return {name: cross_out(part) for name, part in value.items()}
        return [cross_out(part) for part in value] if isinstance(value, list) else value

    return cross_out
