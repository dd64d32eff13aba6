"""A teacher that replies by a script, asked in virtual time over a real ledger and purse."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import virtual_time

from lorapar_core.errors import LoraparError
from lorapar_core.teachers.asking import Asking, Failed, Limits, Reply
from lorapar_core.teachers.ballot import Ballot, Question
from lorapar_core.teachers.ledger import Entries, Ledger, read_entries
from lorapar_core.teachers.prices import Price
from lorapar_core.teachers.purse import Purse

Script = Callable[[str, int], Reply | Exception]
"""What comes of asking about an example for the nth time (from 0)."""
TOKENS = (100, 10)
USED = (40, 2)


def said(label: int | None = 1, text: str = "", **changed: Any) -> Reply:
    fields = {"prompt_tokens": USED[0], "completion_tokens": USED[1], **changed}
    return Reply(text or f"System {label}", label, "served-7", **fields)


def failed(outcome: str = "500", status: int | None = 500, **how: Any) -> Failed:
    return Failed(outcome, f"it said {outcome}", status=status, **how)


def questions(ids: Iterable[str]) -> list[Question]:
    return [Question(example_id, f"prompt of {example_id}", "answer") for example_id in ids]


def named(count: int) -> list[str]:
    return [f"q{k}" for k in range(count)]


class Teacher:
    """Takes `seconds` for a reply, or as long as `takes` says."""

    def __init__(
        self,
        script: Script = lambda _example_id, _nth: said(),
        *,
        seconds: float = 1.0,
        takes: Callable[[str, int], float] | None = None,
    ) -> None:
        self._script = script
        self._takes = takes or (lambda _example_id, _nth: seconds)
        self.asked: Counter[str] = Counter()
        self.sends: list[tuple[float, str, str | None]] = []
        """When, about which example, and the reply before that was no label."""
        self.at_once = 0
        self.most_at_once = 0
        self.most_tasks = 0

    async def send(self, question: Question, unread: str | None) -> Reply:
        example_id = question.example_id
        nth = self.asked[example_id]
        self.asked[example_id] += 1
        self.sends.append((asyncio.get_running_loop().time(), example_id, unread))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.most_tasks = max(self.most_tasks, len(asyncio.all_tasks()))
        try:
            await asyncio.sleep(self._takes(example_id, nth))
            came = self._script(example_id, nth)
        finally:
            self.at_once -= 1
        if isinstance(came, Exception):
            raise came
        return came


@dataclass
class Asked:
    """What asking came to."""

    late: dict[str, Ballot]
    error: LoraparError | None
    entries: Entries
    """As they stand on the disk."""
    seconds: float

    def labels(self) -> dict[str, int | None]:
        return {example_id: ballot.label for example_id, ballot in self.entries.votes.items()}

    def outcomes(self, example_id: str | None = None) -> list[str]:
        return [
            attempt.outcome
            for attempt in self.entries.attempts
            if example_id in (None, attempt.example_id)
        ]


def ask(
    path: Path,
    ids: Iterable[str],
    teacher: Teacher,
    *,
    price: Price | None = None,
    purse: Purse | None = None,
    beside: Callable[[asyncio.Task[Any]], Any] | None = None,
    tokens: tuple[int, int] = TOKENS,
    **limits: Any,
) -> Asked:
    """Ask for what the ledger at `path` doesn't hold yet, as the stage does; `beside` is a
    coroutine function that runs meanwhile and is given the asking's task."""

    async def asking(ledger: Ledger) -> Asked:
        given = Asking(
            "far",
            teacher.send,
            ledger=ledger,
            limits=Limits(**{"concurrency": 8, **limits}),
            tokens=lambda _question: tokens,
            price=price,
            purse=purse,
            time=virtual_time.virtual_time(),
        )
        missing = [q for q in questions(ids) if q.example_id not in ledger.votes]
        task = asyncio.create_task(given.ask(missing))
        other = asyncio.create_task(beside(task)) if beside else None
        late: dict[str, Ballot] = {}
        error = None
        try:
            late = await task
        except LoraparError as raised:
            error = raised
        if other:
            await other
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"it left tasks behind: {left}"
        return Asked(late, error, Entries(), asyncio.get_running_loop().time())

    with Ledger.opened(path) as ledger:
        asked: Asked = virtual_time.run(asking(ledger))
    asked.entries = read_entries(path)
    return asked
