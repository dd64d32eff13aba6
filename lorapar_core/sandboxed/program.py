"""The program's side: run it, then answer what its tests ask, one question after another.

Everything here is in the hands of the program, which may change it as it likes: there is nothing to
find, and what it says is read by `tests` as a stranger's word.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lorapar_core.sandboxed.channel import Channel, ChannelError, decoded, encoded

_MUTABLE = (list, dict, set, bytearray)


def serve(source: str, channel: Channel) -> None:
    """Run the program's text once the tests ask, then answer until nobody asks.

    By then the tests' side is ready too: its start takes none of the program's time, and nothing of
    the program's can hold it up.

    Raises:
        ChannelError: the tests have ended before.
    """
    channel.wait()
    # Dataclasses and pickle look a class's module up by its name.
    module = sys.modules["program"] = ModuleType("program")
    exec(compile(source, "<program>", "exec", dont_inherit=True), vars(module))
    try:
        _Side(vars(module), channel).next_that_is_no_question()
    except ChannelError:
        os._exit(1)


class _Side:
    """The objects that the tests hold handles of."""

    def __init__(self, names: dict[str, Any], channel: Channel) -> None:
        self._names, self._channel = names, channel
        self._objects: list[Any] = []
        self._handles: dict[int, int] = {}

    def next_that_is_no_question(self) -> list[Any]:
        """Answer questions till something else comes: the result of a function of the tests."""
        while True:
            said, *rest = self._channel.receive()
            if not isinstance(said, int):
                return [said, *rest]
            self._channel.send([said, *self._answer(*rest)])

    def _answer(self, verb: str, *rest: Any) -> list[Any]:
        try:
            if verb == "names":
                known = {name: self._names[name] for name in rest if name in self._names}
                return ["value", [[name, *self._told(value)] for name, value in known.items()]]
            values = [decoded(part, self._resolve) for part in rest]
            result = _VERBS[verb](*values)
            # As with list.sort: what changes its arguments returns None.
            changes = verb == "call" and result is None
            changed = [self._sent(part) for part in _mutable(*values[1:])] if changes else None
            return ["value", self._sent(result), changed]
        except ChannelError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the tests are told
            names = [kind.__name__ for kind in type(error).__mro__]
            return ["raised", names, [encoded(part, _as_text) for part in error.args]]

    def _told(self, value: Any) -> list[Any]:
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", [kind.__name__ for kind in value.__mro__]]
        if callable(value):
            return ["class" if isinstance(value, type) else "function", self._kept(value)[1]]
        return ["value", self._sent(value)]

    def _sent(self, value: Any) -> Any:
        return encoded(value, self._kept)

    def _kept(self, value: Any) -> list[Any]:
        handle = self._handles.setdefault(id(value), len(self._objects))
        if handle == len(self._objects):
            self._objects.append(value)
        return ["handle", handle]

    def _resolve(self, kind: str, number: int) -> Any:
        return self._objects[number] if kind == "handle" else self._callback(number)

    def _callback(self, number: int) -> Callable[..., Any]:
        """A function of the tests, which runs on their side."""

        def call(*positional: Any) -> Any:
            self._channel.send(["asks", number, self._sent(positional)])
            said, told, *text = self.next_that_is_no_question()
            if said == "raises":
                kind = getattr(builtins, told, RuntimeError)
                raise kind(*text)
            return decoded(told, self._resolve)

        return call


def _mutable(positional: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    return [part for part in (*positional, *named.values()) if isinstance(part, _MUTABLE)]


def _as_text(value: Any) -> str:
    return repr(value)


def _set_item(value: Any, key: Any, item: Any) -> None:
    value[key] = item


_VERBS: dict[str, Callable[..., Any]] = {
    "call": lambda value, positional, named: value(*positional, **named),
    "get": getattr,
    "set": setattr,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iterate": list,
    "item": lambda value, key: value[key],
    "set_item": _set_item,
    "isinstance": lambda value, kind: isinstance(value, kind),
    "eq": lambda one, other: bool(one == other),
    "lt": lambda one, other: bool(one < other),
    "add": lambda one, other: one + other,
    "sub": lambda one, other: one - other,
}
