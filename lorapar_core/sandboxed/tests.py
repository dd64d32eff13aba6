"""The tests' side: run them here, where the program isn't, and ask it whatever they call.

The names that the tests take from the program stand for it. A function's results are values alone;
a class gives objects (`Remote`) whose methods, attributes, length and parts can be asked for; what
else a program defines is as it was when its text had run. No object of the program is ever compared
with a value: that would let it say that it is equal, or as close as need be. Only two of its own
objects are compared by the program itself. (Tests that believe a method, `x.has(3)`, believe the
program: that is what they test.)

Arguments go as copies. What the program changes in place comes back where the call returned None,
as with list.sort. Exceptions come back by name, those of Python as themselves; StopIteration as
RuntimeError, since it would end a loop of the tests early, and they would count as passed.

The moment the program ends or breaks the channel all is over, and no test can catch that.
"""

from __future__ import annotations

import builtins
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from lorapar_core.sandboxed.channel import Channel, ChannelError, decoded, encoded

_MUTABLE = (list, dict, set, bytearray)
_ENDS_LOOPS = (StopIteration, StopAsyncIteration)
_BROKEN = (ChannelError, TypeError, ValueError, RecursionError, MemoryError)
"""What reading a stranger's word may raise."""


def hold(job: dict[str, Any], channel: Channel) -> None:
    """Run the tests; it returns only if they ran to their end.

    `job`: the texts `helpers` and `tests`, the `names` that they take from the program, the
    `modules` that they use unimported, and the `entry_point` that `check` is called with, or "".
    """
    program = _Program(channel, complaints=job["verdict"], values_only=bool(job["entry_point"]))
    taken = program.names(job["names"])
    names: dict[str, Any] = {"__name__": "tests"}
    names.update((module, importlib.import_module(module)) for module in job["modules"])
    _run(job["helpers"], "<helpers>", names)
    names.update(taken)
    _run(job["tests"], "<tests>", names)
    if job["entry_point"]:
        names["check"](taken[job["entry_point"]])


def _run(source: str, name: str, names: dict[str, Any]) -> None:
    exec(compile(source, name, "exec", dont_inherit=True), names)


def _give_up() -> NoReturn:
    os._exit(1)


class _Program:
    """The program, asked over the channel.

    `complaints`: where to say what the tests do wrong. `values_only`: its names stand for functions
    and values, never for classes and objects, whatever the program says that they are.
    """

    def __init__(self, channel: Channel, *, complaints: int, values_only: bool) -> None:
        self._channel, self._complaints, self._asked = channel, complaints, 0
        self._values_only = values_only
        self._objects: dict[int, Remote] = {}
        self._functions: dict[Callable[..., Any], int] = {}
        self._callbacks: list[Callable[..., Any]] = []
        self._exceptions: dict[str, type[Exception]] = {}

    def names(self, wanted: list[str]) -> dict[str, Any]:
        """What stands here for each of these names that the program defines."""
        try:
            kind, told, *_ = self._answer(["names", *wanted])
            if kind != "value":
                raise ChannelError("no names")
            told = sorted(told, key=lambda one: len(one[2]) if one[1] == "exception" else 0)
            return {name: self._stand_in(*what) for name, *what in told if name in wanted}
        except (*_BROKEN, KeyError, IndexError):
            _give_up()

    def ask(self, verb: str, handle: int, *values: Any, objects: bool = True) -> Any:
        """What the program says; what it raises is raised here.

        `objects`: whether that may be an object of the program.
        """
        error: Exception | None = None
        try:
            said = self._answer([verb, ["handle", handle], *(self._sent(part) for part in values)])
            if said[0] == "raised":
                error = self._exception(*said[1:])
            result = None if error else decoded(said[1], self._object if objects else _no_object)
            if not error and said[2] is not None:
                _bring_back([decoded(part, self._object) for part in said[2]], *values)
        except (*_BROKEN, IndexError):
            _give_up()
        if error:
            raise error
        return result

    def _answer(self, question: list[Any]) -> list[Any]:
        """["value", the result, changed arguments or None], or ["raised", names, arguments].

        While it works on its answer, the program may ask for the tests' own functions.
        """
        self._channel.require_silence()
        self._asked += 1
        number = self._asked
        self._channel.send([number, *question])
        while True:
            rest: list[Any]
            said, *rest = self._channel.receive()
            if said == "asks":
                self._channel.send(self._called_back(*rest))
            elif type(said) is int and said == number and rest[0] in ("value", "raised"):
                return rest
            else:
                raise ChannelError("an answer to another question")

    def _called_back(self, number: int, positional: Any) -> list[Any]:
        if type(number) is not int or not 0 <= number < len(self._callbacks):
            raise ChannelError("a callback that there isn't")
        given = decoded(positional, self._object)
        try:
            result = self._callbacks[number](*given)
        except Exception as error:  # noqa: BLE001 - as the program would meet it in one interpreter
            return ["raises", type(error).__name__, str(error)]
        return ["answers", self._sent(result)]

    def _stand_in(self, kind: str, what: Any) -> Any:
        if kind == "function" or (kind == "class" and self._values_only):
            return self._function(int(what))
        if kind == "exception":
            name, *bases = what
            self._exceptions[name] = type(str(name), (self._class_of(bases),), {})
            return self._exceptions[name]
        if kind == "class":
            return self._object("handle", int(what))
        return decoded(what, _no_object if self._values_only else self._object)

    def _function(self, handle: int) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            return self.ask("call", handle, positional, named, objects=False)

        self._functions[call] = handle
        return call

    def _object(self, kind: str, number: int) -> Remote:
        if kind != "handle":
            raise ChannelError("a callback can't come from the program")
        return self._objects.setdefault(number, Remote(self, number))

    def _sent(self, value: Any) -> Any:
        return encoded(value, self._refer)

    def _refer(self, value: Any) -> list[Any]:
        if type(value) is Remote:
            return ["handle", value._number]
        if not callable(value):
            os.write(self._complaints, f"hand over a {type(value).__name__}".encode())
            _give_up()
        if value in self._functions:
            return ["handle", self._functions[value]]
        self._callbacks.append(value)
        return ["callback", len(self._callbacks) - 1]

    def _class_of(self, names: list[str]) -> type[Exception]:
        """The first of these, from the class itself upwards, that the tests know."""
        for name in names:
            known = self._exceptions.get(name) or getattr(builtins, name, None)
            if isinstance(known, type) and issubclass(known, Exception):
                return RuntimeError if issubclass(known, _ENDS_LOOPS) else known
        raise ChannelError("it wants to leave")  # SystemExit, KeyboardInterrupt

    def _exception(self, names: list[str], arguments: list[Any]) -> Exception:
        kind, values = self._class_of(names), [decoded(part, _no_object) for part in arguments]
        try:
            return kind(*values)
        except TypeError:  # UnicodeError and others insist on their own arguments
            return kind.__new__(kind)


def _no_object(kind: str, number: int) -> NoReturn:
    raise ChannelError("an object where only a value can be")


def _bring_back(changed: list[Any], positional: tuple[Any, ...], named: dict[str, Any]) -> None:
    mine = [part for part in (*positional, *named.values()) if isinstance(part, _MUTABLE)]
    for old, new in zip(mine, changed, strict=True):
        if isinstance(old, (list, bytearray)) and isinstance(new, (list, bytearray)):
            old[:] = new
        elif isinstance(old, (dict, set)) and isinstance(new, (dict, set)):
            old.clear()
            old.update(new)
        else:
            raise ChannelError("an argument that became something else")


class Remote:
    """An object of the program."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: _Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def _ask(self, verb: str, *values: Any) -> Any:
        return self._program.ask(verb, self._number, *values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and others look for their protocols
            raise AttributeError(name)
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._ask("call", positional, named)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", key, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask("iterate"))

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __bool__(self) -> bool:
        return self._ask("bool") is True

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __instancecheck__(self, other: Any) -> bool:
        return type(other) is Remote and other._ask("isinstance", self) is True

    def __hash__(self) -> int:
        return hash(self._number)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is Remote and self._ask("eq", other) is True)

    def __lt__(self, other: Any) -> bool:
        return self._ask("lt", other) is True if type(other) is Remote else NotImplemented

    def __add__(self, other: Any) -> Any:
        return self._ask("add", other) if type(other) is Remote else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return self._ask("sub", other) if type(other) is Remote else NotImplemented
