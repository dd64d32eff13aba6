"""What a teacher's tokens cost: as the recipe says, else as litellm's own table does.

The table is a file in litellm's package, read without importing it, so a plan needs neither seconds
nor a network. A server that the recipe names by `api_base` costs what its owner says, which no
table knows. A price that nobody knows is unknown, never 0.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lorapar_core.config import TeacherConfig

MILLION = 1_000_000
TABLE = "model_prices_and_context_window_backup.json"
FRAME_TOKENS = 512
"""What a provider puts around a message at most: a schema's own prompt, roles, marks."""
LIKELY_FRAME_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars a token."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for a request."""
        return self.prompt * prompt_tokens + self.completion * completion_tokens


def price_of(teacher: TeacherConfig) -> Price | None:
    """The teacher's price; None where nobody says."""
    if teacher.provider != "litellm":
        return Price(0.0, 0.0)
    if teacher.input_usd is not None and teacher.output_usd is not None:
        return Price(teacher.input_usd / MILLION, teacher.output_usd / MILLION)
    return None if teacher.api_base else _listed(teacher.model)


def _listed(model: str) -> Price | None:
    provider, _, name = model.partition("/")
    table = _table()
    entry = table.get(model)
    if entry is None and table.get(name, {}).get("litellm_provider") == provider:
        entry = table[name]
    if entry is None or not {"input_cost_per_token", "output_cost_per_token"} <= entry.keys():
        return None
    listed = Price(entry["input_cost_per_token"], entry["output_cost_per_token"])
    return listed if listed.prompt or listed.completion else None  # the table's way of "unknown"


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        return {}
    table: Mapping[str, Mapping[str, Any]] = json.loads(
        Path(package.origin).with_name(TABLE).read_text()
    )
    return table


def most_tokens(message: str) -> int:
    """No tokenizer makes more of a message: a token is a byte or longer."""
    return len(message.encode("utf-8", "replace")) + FRAME_TOKENS


def likely_tokens(message: str) -> float:
    """What a message comes to in English: about four bytes a token."""
    return len(message.encode("utf-8", "replace")) / 4 + LIKELY_FRAME_TOKENS
