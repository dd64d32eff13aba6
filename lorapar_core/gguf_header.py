"""The beginning of a GGUF file: its fields and the names of its tensors, read in milliseconds.

    "GGUF", version u32, tensors u64, fields u64
    fields times:   key string, type u32, value         (an array: type u32, count u64, values)
    tensors times:  name string, dimensions u32, each u64, type u32, offset u64

All of it little-endian, a string its length as u64 and its bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_FORMATS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_OLDEST = 2
"""Version 1 had shorter lengths."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Fields, of an array its length only, and names of tensors."""

    fields: dict[str, object]
    tensors: frozenset[str]


def read_header(path: Path) -> GgufHeader | None:
    """The header; None if the file has none that we can read."""
    with path.open("rb") as file:
        try:
            if file.read(4) != b"GGUF" or _number(file, "I") < _OLDEST:
                return None
            tensors, count = _number(file, "Q"), _number(file, "Q")
            fields = {_text(file): _value(file, _number(file, "I")) for _ in range(count)}
            return GgufHeader(fields, frozenset(_tensor(file) for _ in range(tensors)))
        except (
            struct.error,
            KeyError,
            UnicodeDecodeError,
            OverflowError,
        ):  # it ends early, or is something else
            return None


def _number(file: BinaryIO, form: str) -> Any:
    (found,) = struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
    return found


def _text(file: BinaryIO) -> str:
    text: str = file.read(_number(file, "Q")).decode()
    return text


def _value(file: BinaryIO, kind: int) -> object:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _FORMATS[kind])
    kind, count = _number(file, "I"), int(_number(file, "Q"))
    if kind in _FORMATS:
        file.seek(count * struct.calcsize(_FORMATS[kind]), 1)
    else:
        for _ in range(count):
            _value(file, kind)
    return count


def _tensor(file: BinaryIO) -> str:
    name = _text(file)
    file.seek(8 * _number(file, "I") + 4 + 8, 1)
    return name
