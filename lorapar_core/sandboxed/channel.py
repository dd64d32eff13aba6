"""The channel between a program and its tests: values that Python has literals for, and no others.

A message is four bytes of length and that much JSON. None, bool, int, float and str stand for
themselves; the rest is a list that begins with its kind. What arrives is built from these kinds
alone, of the built-in types themselves, so that nothing that comes through can pretend: two values
are equal if Python's own types say so. An iterator arrives as one over the same values.

A program's own objects don't come through. What arrives for one is a number, a *handle*, that can
be sent back; likewise the number of a test's function, a *callback*.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from typing import Any

_EMPTY: dict[int, int] = {}
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))
_PLAIN_INT = 1 << 63
"""Integers below this are JSON's; others are in hex, which takes no time that grows quadratically,
and which Python's limit on digits doesn't meet."""

Refer = Callable[[Any], Any]
"""What stands for a value that can't come through; it raises TypeError if nothing may."""
Resolve = Callable[[str, int], Any]
"""(kind, number) -> what stands on this side for a handle or a callback."""


class ChannelError(Exception):
    """The other side has ended, or says what it must not."""


class Channel:
    """Whole messages over two pipes, each at most `most` bytes."""

    def __init__(self, reads: int, writes: int, *, most: int) -> None:
        self._reads, self._writes, self._most = reads, writes, most
        self._poll = select.poll()
        self._poll.register(reads, select.POLLIN)

    def send(self, message: object) -> None:
        """Raises ChannelError if it is too long, or nobody reads it."""
        text = json.dumps(message).encode()
        if len(text) > self._most:
            raise ChannelError(f"a message of {len(text)} bytes, over {self._most}")
        left = len(text).to_bytes(4, "big") + text
        try:
            while left:
                left = left[os.write(self._writes, left) :]
        except OSError as error:
            raise ChannelError("nobody reads any more") from error

    def receive(self) -> Any:
        """The next message.

        Raises:
            ChannelError: there is none, or it is too long or no JSON.
        """
        length = int.from_bytes(self._exactly(4), "big")
        if length > self._most:
            raise ChannelError(f"a message of {length} bytes, over {self._most}")
        try:
            return json.loads(self._exactly(length))
        except (ValueError, RecursionError) as error:
            raise ChannelError(f"no message: {error}") from error

    def wait(self) -> None:
        """Till something comes.

        Raises:
            ChannelError: the other side has ended, and nothing will.
        """
        [(_, events)] = self._poll.poll()
        if not events & select.POLLIN:
            raise ChannelError("the other side has ended")

    def require_silence(self) -> None:
        """Raises ChannelError if something came that nobody has asked for."""
        if self._poll.poll(0):
            raise ChannelError("an answer came before its question, or the other side has ended")

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = os.read(self._reads, count)
            except OSError as error:
                raise ChannelError("the pipe is gone") from error
            if not part:
                raise ChannelError("the other side has ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def encoded(value: Any, refer: Refer) -> Any:
    """The value as JSON has it. A subclass goes as the built-in type that it comes from.

    Raises:
        TypeError: there is no literal of it, and `refer` knows nothing for it either.
        RecursionError: it is nested too deep, or holds itself.
    """
    if value is None or type(value) in (bool, float, str):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if -_PLAIN_INT < number < _PLAIN_INT else ["int", hex(number)]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, (bytes, bytearray)):
        return ["bytes" if isinstance(value, bytes) else "bytearray", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, range):
        return ["range", *(encoded(n, refer) for n in (value.start, value.stop, value.step))]
    if isinstance(value, dict):
        pairs = [part for pair in value.items() for part in pair]
        return ["dict", *(encoded(part, refer) for part in pairs)]
    for base in (list, tuple, set, frozenset):
        if isinstance(value, base):
            return [base.__name__, *(encoded(part, refer) for part in value)]
    if hasattr(type(value), "__next__") or isinstance(value, _VIEWS):
        return ["iterator", *(encoded(part, refer) for part in value)]
    return refer(value)


def decoded(data: Any, resolve: Resolve) -> Any:
    """The value that `data` stands for.

    Raises:
        ChannelError: it stands for none.
    """
    if data is None or type(data) in (bool, int, float, str):
        return data
    if type(data) is not list or not data or type(data[0]) is not str:
        raise ChannelError(f"a {type(data).__name__} that stands for no value")
    kind, parts = data[0], data[1:]
    if kind in ("handle", "callback"):
        (number,) = parts
        if type(number) is not int:
            raise ChannelError(f"a {kind} without a number")
        return resolve(kind, number)
    if kind not in _KINDS:
        raise ChannelError(f"a value of the kind {kind[:40]!r}")
    try:
        return _KINDS[kind]([decoded(part, resolve) for part in parts])
    except (
        TypeError,
        ValueError,
        IndexError,
    ) as error:  # such as an unhashable key
        raise ChannelError(f"a {kind} that is none: {error}") from error


def _dict(parts: list[Any]) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


_KINDS: dict[str, Callable[[list[Any]], Any]] = {
    "int": lambda parts: int(parts[0], 16),
    "bytes": lambda parts: bytes.fromhex(*parts),
    "bytearray": lambda parts: bytearray.fromhex(*parts),
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "dict": _dict,
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
}
