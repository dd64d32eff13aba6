"""The votes of one way of asking, on disk before they count, and kept for good.

An append-only file. An entry stands between line breaks of its own and begins with a CRC-32 of the
rest, so that a torn or damaged one is passed over and spoils no other:

    {"sent": 7, "example_id": …, "usd": …}    a request goes out, and may cost so much
    {"came": 7, "attempt": {…}}               what came of it
    {"vote": {…}}                             flushed to the disk (fsync) before it counts

All reach the kernel at once, which survives kill -9 of this process; a vote that counts survives a
power cut too. A request that was sent and never came back was under way when its process died: it
may have been billed, and counts as what it might have cost. One process at a time holds the file
(flock), so that two runs that ask the same don't pay twice: the second finds the first one's votes.
Failures are attempts and never votes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lorapar_core.checkpoints import sync
from lorapar_core.errors import VoteError
from lorapar_core.teachers.ballot import Attempt, Ballot

LOST = "lost"
"""Outcome of a request whose process died before the reply came."""
POLL_S = 0.1
SAY_AFTER_S = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Entries:
    """What a ledger's file says."""

    votes: dict[str, Ballot] = field(default_factory=dict)
    """By example."""
    attempts: list[Attempt] = field(default_factory=list)
    under_way: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Requests without a reply: number -> example, and the dollars they may cost at most."""
    unbilled: list[tuple[str, float]] = field(default_factory=list)
    """Example and dollars of requests that ended without anybody knowing what they cost."""
    sent: int = 0

    def take(self, entry: Mapping[str, Any]) -> None:
        if "vote" in entry:
            ballot = Ballot(**entry["vote"])
            self.votes[ballot.example_id] = ballot
        elif "came" in entry:
            attempt = Attempt(**entry["attempt"])
            reserved = self.under_way.pop(entry["came"], None)
            if reserved and reserved[1] and attempt.cost_usd is None:
                self.unbilled.append(reserved)
            self.attempts.append(attempt)
        else:
            self.sent = max(self.sent, entry["sent"] + 1)
            self.under_way[entry["sent"]] = (entry["example_id"], entry["usd"])

    def spent_usd(self, ids: set[str]) -> float:
        """Dollars that requests about these examples cost, or may have cost where nobody knows."""
        known = [(a.example_id, a.cost_usd or 0.0) for a in self.attempts]
        sums = [*known, *self.unbilled, *self.under_way.values()]
        return math.fsum(usd for example_id, usd in sums if example_id in ids)

    def attempts_on(self, ids: set[str]) -> list[Attempt]:
        """All requests about these examples, in the order in which they ended."""
        lost = [Attempt(i, LOST, cost_usd=usd or None) for i, usd in self.under_way.values()]
        return [attempt for attempt in (*self.attempts, *lost) if attempt.example_id in ids]


def read_entries(path: Path) -> Entries:
    """What is on disk; nothing where there is no file. Torn entries are passed over."""
    entries = Entries()
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            entry = _decoded(line)
            if entry is not None:
                entries.take(entry)
    return entries


class Ledger:
    """The file, held by this process. `opened` is the way to get one."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._entries = read_entries(path)
        self._waiting: list[tuple[Mapping[str, Any], asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Ledger]:
        """Hold the ledger at `path`, made if absent; waits while another process does.

        Raises:
            OSError: the file can't be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # A killed process may have left votes that reached the kernel and not yet the disk.
            sync(path)
            sync(path.parent)
            yield cls(path, descriptor)
        finally:
            os.close(descriptor)  # gives the lock up

    @property
    def votes(self) -> Mapping[str, Ballot]:
        """Example id -> its vote."""
        return self._entries.votes

    @property
    def entries(self) -> Entries:
        return self._entries

    def sent(self, example_id: str, *, usd: float) -> int:
        """Note that a request goes out and may cost so much; returns its number.

        Raises:
            VoteError: the disk refuses.
        """
        number = self._entries.sent
        self._note({"sent": number, "example_id": example_id, "usd": usd})
        return number

    def came(self, number: int, attempt: Attempt) -> None:
        """Note what came of a request.

        Raises:
            VoteError: the disk refuses.
        """
        self._note({"came": number, "attempt": asdict(attempt)})

    def _note(self, entry: Mapping[str, Any]) -> None:
        self._append([entry])
        self._count([entry])

    def keep_now(self, ballots: Sequence[Ballot]) -> None:
        """Have votes on the disk.

        Raises:
            VoteError: the disk refuses; they don't count.
        """
        votes = [{"vote": asdict(ballot)} for ballot in ballots]
        self._append(votes)
        self._flush()
        self._count(votes)

    async def keep(self, ballot: Ballot) -> None:
        """Have a vote on the disk, together with the others that wait for it meanwhile.

        Raises:
            VoteError: the disk refuses; it doesn't count.
        """
        vote = {"vote": asdict(ballot)}
        self._append([vote])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((vote, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_waiting())
        await done

    async def _flush_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                failed: VoteError | None = None
                try:
                    await asyncio.to_thread(self._flush)
                    self._count([vote for vote, _ in batch])
                except VoteError as error:
                    failed = error
                for _, done in batch:
                    if done.done():  # its task was cancelled
                        continue
                    elif failed:
                        done.set_exception(VoteError(str(failed)))
                    else:
                        done.set_result(None)
        finally:
            self._flushing = None

    def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        data = memoryview(b"".join(map(_encoded, entries)))
        with self._as_vote_error():
            while data:
                data = data[os.write(self._descriptor, data) :]

    def _flush(self) -> None:
        with self._as_vote_error():
            os.fsync(self._descriptor)

    def _count(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            self._entries.take(entry)

    @contextmanager
    def _as_vote_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VoteError(
                f"the votes' ledger {self._path} can't be written ({error.strerror or error}); see "
                "to the disk and run again: votes so far are kept"
            ) from error


def _lock(descriptor: int) -> None:
    began, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not said and time.monotonic() - began > SAY_AFTER_S:
                _LOG.warning("another run asks this teacher the same; waiting for its votes")
                said = True
            time.sleep(POLL_S)
        else:
            return


def _encoded(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"\n%08x %s\n" % (zlib.crc32(text), text)


def _decoded(line: bytes) -> Mapping[str, Any] | None:
    check, _, text = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    entry: Mapping[str, Any] = json.loads(text)
    return entry
