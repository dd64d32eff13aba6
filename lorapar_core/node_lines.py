"""Messages of nodes, as lines on a stdout that other programs write to as well.

A message is a JSON object with an `event`, or with the `rank` that said one. srun hands on whole
lines, but cuts those of 1024 bytes and more, and then two nodes' mix; so a long message goes in
pieces, a line each:

    @lorapar-node@ NODE + PIECE      more follow
    @lorapar-node@ NODE . PIECE      the last one
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

PIECE = 900
_MARK = "@lorapar-node@"
_LINE = re.compile(rf"{_MARK} (\d+|\?) ([+.]) (.*)")


def lines(node: int | None, message: Mapping[str, Any]) -> Iterator[str]:
    """The message as lines; a node that doesn't know its number is None."""
    name = "?" if node is None else node
    text = json.dumps(message)
    for at in range(0, len(text), PIECE):
        more = "+" if at + PIECE < len(text) else "."
        yield f"{_MARK} {name} {more} {text[at : at + PIECE]}\n"


class Messages:
    """Puts messages together again, of all nodes at once."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}

    def ours(self, line: str) -> bool:
        """Whether a node of ours wrote it, or a part of it."""
        return _MARK in line

    def take(self, line: str) -> tuple[int | None, dict[str, Any]] | None:
        """Node and message that the line completes; None where more pieces follow.

        Raises:
            ValueError: the line isn't as `lines` made it.
        """
        found = _LINE.fullmatch(line.rstrip("\r\n"))
        if not found:
            raise ValueError(f"{line[:80]!r} is no line of a node's")
        node, more, piece = found.groups()
        text = self._begun.pop(node, "") + piece
        if more == "+":
            self._begun[node] = text
            return None
        message = json.loads(text)
        if not isinstance(message, dict) or not message.keys() & {"event", "rank"}:
            raise ValueError(f"{text[:80]!r} is no message of a node's")
        return (None if node == "?" else int(node)), message
