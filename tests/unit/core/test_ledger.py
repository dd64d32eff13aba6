"""The ledger of votes: whatever is torn, damaged, killed or full, a vote that counted stays."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorapar_core.errors import VoteError
from lorapar_core.teachers.ballot import Attempt, Ballot
from lorapar_core.teachers.ledger import LOST, Entries, Ledger, read_entries

BALLOTS = [
    Ballot("q0", 1, "System é\nnext line", "m", logprob_1=-0.5, logprob_2=-1.5),
    Ballot("q1", None, "perhaps", "m", "off_schema"),
    Ballot("q2", 2, '{"system": "System 2"}', "m"),
]
ATTEMPTS = [
    Attempt("q0", "429", 429, cost_usd=0.0, seconds=0.25),
    Attempt("q0", "vote", 200, 30, 2, 0.0004, 1.5),
    Attempt("q1", "timeout", None, 0, 0, None, 60.0),
]
CHILD = """
import asyncio, os, sys, threading, time
from pathlib import Path
from lorapar_core.teachers.ballot import Attempt, Ballot
from lorapar_core.teachers.ledger import Ledger
path, what = Path(sys.argv[1]), sys.argv[2]

def say(text):
    print(text, flush=True)

async def keep_many(ledger):
    async def one(k):
        number = ledger.sent(f"q{k}", usd=0.5)
        ledger.came(number, Attempt(f"q{k}", "vote", 200, 1, 1, 0.25))
        await ledger.keep(Ballot(f"q{k}", 1 + k % 2, "x" * 100, "m"))
        say(f"kept q{k}")
    for start in range(0, 100000, 8):
        await asyncio.gather(*(one(k) for k in range(start, start + 8)))

async def slow_disk(ledger):
    os.fsync = lambda _descriptor: time.sleep(3600)
    for k in range(4):
        asyncio.create_task(ledger.keep(Ballot(f"q{k}", 1, "1", "m")))
        await asyncio.sleep(0.05)  # the first one is being flushed, and the others wait for it
    say("all handed over")
    await asyncio.sleep(3600)

with Ledger.opened(path) as ledger:
    say("opened " + " ".join(sorted(ledger.votes)))
    if what == "keep":
        asyncio.run(keep_many(ledger))
    elif what == "slow":
        asyncio.run(slow_disk(ledger))
    elif what == "under way":
        ledger.sent("q0", usd=0.25)
        ledger.came(ledger.sent("q1", usd=0.5), Attempt("q1", "vote", 200, 1, 1, 0.125))
        say("sent")
        time.sleep(3600)
    elif what == "hold":
        sys.stdin.readline()
        ledger.keep_now([Ballot("mine", 2, "2", "m")])
"""


class Child:
    """Another process with the ledger."""

    def __init__(self, path: Path, what: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> list[str]:
        """kill -9; returns the lines that it had written and nobody had read."""
        self.process.send_signal(signal.SIGKILL)
        return self.end()

    def end(self) -> list[str]:
        with self.process:
            assert self.process.stdout is not None
            return self.process.stdout.read().splitlines()


def written(path: Path) -> bytes:
    """A ledger with entries of all kinds."""
    with Ledger.opened(path) as ledger:
        for attempt, ballot in zip(ATTEMPTS, BALLOTS, strict=True):
            ledger.came(ledger.sent(attempt.example_id, usd=0.5), attempt)
            ledger.keep_now([ballot])
    return path.read_bytes()


def spans(whole: bytes) -> list[tuple[int, int]]:
    """Where each entry, with its line breaks, begins and ends."""
    ends = [k + 2 for k in range(len(whole)) if whole[k : k + 2] == b"\n\n"]
    breaks = [end - 1 for end in ends]
    return list(zip([0, *breaks], [*breaks, len(whole)], strict=True))


def holds(path: Path) -> tuple[dict[str, Ballot], list[Attempt], dict[int, tuple[str, float]]]:
    entries = read_entries(path)
    return entries.votes, entries.attempts, entries.under_way


def no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "ledger"
    assert holds(path) == ({}, [], {})
    written(path)
    assert holds(path) == ({ballot.example_id: ballot for ballot in BALLOTS}, ATTEMPTS, {})
    with Ledger.opened(path) as ledger:
        assert list(ledger.votes.values()) == BALLOTS
        assert ledger.sent("q9", usd=1.0) == 3  # numbers go on


def test_torn_at_any_byte_it_holds_every_whole_entry_and_takes_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    whole = written(path)
    entries = spans(whole)
    assert len(entries) == 9
    last = Ballot("last", 2, "2", "m")
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        # Its last line break may be missing: the next entry brings one.
        complete = [whole[a:b] for a, b in entries if b - 1 <= end]
        expected = Entries()
        for entry in complete:
            expected.take(json.loads(entry.split(b" ", 1)[1]))
        assert read_entries(path) == expected, end
        with Ledger.opened(path) as ledger:
            ledger.keep_now([last])
        expected.votes["last"] = last
        assert read_entries(path) == expected, end


@pytest.mark.parametrize("becomes", [lambda byte: byte ^ 1, lambda _: 10, lambda _: 32])
def test_a_damaged_byte_spoils_its_own_entry_and_no_other(
    tmp_path: Path, becomes: Callable[[int], int]
) -> None:
    path = tmp_path / "ledger"
    whole = written(path)
    for begin, end in spans(whole):
        expected = Entries()
        for a, b in spans(whole):
            if a != begin:
                expected.take(json.loads(whole[a:b].split(b" ", 1)[1]))
        intact = Entries()
        for a, b in spans(whole):
            intact.take(json.loads(whole[a:b].split(b" ", 1)[1]))
        for at in range(begin, end):
            if becomes(whole[at]) == whole[at]:
                continue
            damaged = bytearray(whole)
            damaged[at] = becomes(whole[at])
            path.write_bytes(damaged)
            # A line break may be spared: the neighbour's stands beside it.
            allowed = [expected, intact] if at in (begin, end - 1) else [expected]
            assert read_entries(path) in allowed, at


def test_numbers_are_not_given_twice_though_an_entry_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.opened(path) as ledger:
        ledger.sent("a", usd=0.5)
        ledger.sent("b", usd=0.25)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"a"', b'"x"'))
    with Ledger.opened(path) as ledger:
        ledger.came(ledger.sent("c", usd=0.125), Attempt("c", "vote", cost_usd=0.0625))
        assert ledger.entries.under_way == {1: ("b", 0.25)}


def test_a_later_vote_on_an_example_takes_the_earlier_ones_place(tmp_path: Path) -> None:
    with Ledger.opened(tmp_path / "ledger") as ledger:
        ledger.keep_now([Ballot("q", 1, "1", "m"), Ballot("q", 2, "2", "m")])
    assert holds(tmp_path / "ledger")[0] == {"q": Ballot("q", 2, "2", "m")}


# Dollars.


def test_spent_is_what_came_and_what_may_have_been_billed(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.opened(path) as ledger:
        known = ledger.sent("a", usd=0.5)
        free = ledger.sent("a", usd=0.5)
        unknown = ledger.sent("b", usd=0.25)
        ledger.sent("c", usd=0.125)  # never comes back
        ledger.sent("elsewhere", usd=8.0)
        ledger.came(known, Attempt("a", "vote", 200, 1, 1, 0.0625))
        ledger.came(free, Attempt("a", "429", 429, cost_usd=0.0))
        ledger.came(unknown, Attempt("b", "timeout"))
        ours = {"a", "b", "c"}
        assert ledger.entries.spent_usd(ours) == 0.0625 + 0.25 + 0.125
    entries = read_entries(path)
    assert entries.spent_usd(ours) == 0.0625 + 0.25 + 0.125
    assert entries.spent_usd({"b"}) == 0.25
    assert [(a.example_id, a.outcome, a.cost_usd) for a in entries.attempts_on(ours)] == [
        ("a", "vote", 0.0625),
        ("a", "429", 0.0),
        ("b", "timeout", None),
        ("c", LOST, 0.125),
    ]


def test_many_small_bills_add_up_exactly(tmp_path: Path) -> None:
    with Ledger.opened(tmp_path / "ledger") as ledger:
        for _ in range(1000):
            ledger.came(ledger.sent("q", usd=1.0), Attempt("q", "vote", cost_usd=0.1))
        assert ledger.entries.spent_usd({"q"}) == 100.0


# The disk.


def test_votes_that_wait_together_are_flushed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[int] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        flushes.append(descriptor)
        fsync(descriptor)

    async def keep_all(ledger: Ledger) -> None:
        await asyncio.gather(*(ledger.keep(Ballot(f"q{k}", 1, "1", "m")) for k in range(500)))

    path = tmp_path / "ledger"
    with Ledger.opened(path) as ledger:
        monkeypatch.setattr(os, "fsync", counted)
        asyncio.run(keep_all(ledger))
    assert len(read_entries(path).votes) == 500
    assert 1 <= len(flushes) <= 3


def test_a_vote_counts_only_once_it_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released = threading.Event(), threading.Event()

    def slow(_descriptor: int) -> None:
        begun.set()
        assert released.wait(30)

    async def main(ledger: Ledger) -> None:
        keeping = asyncio.create_task(ledger.keep(BALLOTS[0]))
        await asyncio.to_thread(begun.wait, 30)
        assert not keeping.done()
        assert not ledger.votes
        ledger.sent("q7", usd=0.5)  # a slow disk holds nobody else up
        released.set()
        await keeping
        assert ledger.votes == {"q0": BALLOTS[0]}

    with Ledger.opened(tmp_path / "ledger") as ledger:
        monkeypatch.setattr(os, "fsync", slow)
        asyncio.run(main(ledger))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_vote_that_a_full_disk_refuses_is_an_error_and_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def keep_both(ledger: Ledger) -> list[Any]:
        keeps = [ledger.keep(ballot) for ballot in BALLOTS[1:]]
        return list(await asyncio.gather(*keeps, return_exceptions=True))

    with Ledger.opened(tmp_path / "ledger") as ledger:
        ledger.keep_now(BALLOTS[:1])
        monkeypatch.setattr(os, call, no_space)
        with pytest.raises(VoteError, match=r"ledger .* can't be written \(No space left"):
            ledger.keep_now(BALLOTS[1:])
        errors = asyncio.run(keep_both(ledger))
        assert [type(error) for error in errors] == [VoteError] * 2
        assert set(ledger.votes) == {"q0"}
        monkeypatch.undo()
        asyncio.run(keep_both(ledger))  # there is room again
    assert set(read_entries(tmp_path / "ledger").votes) == {"q0", "q1", "q2"}


def test_a_request_that_cannot_be_noted_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.opened(tmp_path / "ledger") as ledger:
        number = ledger.sent("q0", usd=0.5)
        monkeypatch.setattr(os, "write", no_space)
        with pytest.raises(VoteError, match="No space left"):
            ledger.sent("q1", usd=0.5)
        with pytest.raises(VoteError, match="No space left"):
            ledger.came(number, ATTEMPTS[0])
        assert ledger.entries.under_way == {0: ("q0", 0.5)}
        assert not ledger.entries.attempts


def test_a_write_that_takes_part_is_completed_and_one_that_fails_halfway_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "ledger", os.write
    with Ledger.opened(path) as ledger:
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
        ledger.keep_now(BALLOTS[:1])
        taken: list[int] = []

        def fails_halfway(descriptor: int, data: memoryview) -> int:
            if taken:
                no_space()
            taken.append(write(descriptor, bytes(data)[:20]))
            return taken[0]

        monkeypatch.setattr(os, "write", fails_halfway)
        with pytest.raises(VoteError):
            ledger.keep_now(BALLOTS[1:2])
        monkeypatch.setattr(os, "write", write)
        ledger.keep_now(BALLOTS[2:])
    assert set(read_entries(path).votes) == {"q0", "q2"}


def test_a_cancelled_vote_is_kept_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(ledger: Ledger) -> None:
        first, second = (asyncio.create_task(ledger.keep(ballot)) for ballot in BALLOTS[:2])
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(second, 30)
        await asyncio.wait_for(ledger.keep(BALLOTS[2]), 30)
        assert first.cancelled()

    with Ledger.opened(tmp_path / "ledger") as ledger:
        asyncio.run(main(ledger))
        assert len(ledger.votes) == 3


def test_what_a_killed_process_left_is_flushed_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    written(path)
    flushed: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with Ledger.opened(path):
        assert flushed == [str(path), str(path.parent)]  # the name as well


# Other processes.


def test_killed_at_any_moment_it_loses_no_vote_that_counted(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    for kept_before in (1, 9, 300):
        path.unlink(missing_ok=True)
        child = Child(path, "keep")
        assert child.line() == "opened "
        lines = [child.line() for _ in range(kept_before)]
        lines += child.kill()
        entries = read_entries(path)
        told = {line.removeprefix("kept ") for line in lines}
        assert len(told) >= kept_before
        assert told <= set(entries.votes)
        for example_id, ballot in entries.votes.items():
            assert ballot == Ballot(example_id, 1 + int(example_id[1:]) % 2, "x" * 100, "m")
        with Ledger.opened(path) as ledger:  # the lock went with the process
            assert set(ledger.votes) == set(entries.votes)


def test_a_vote_that_waits_for_a_slow_disk_survives_kill_9(tmp_path: Path) -> None:
    """It is paid for; only a power cut may take it."""
    child = Child(tmp_path / "ledger", "slow")
    assert child.line() == "opened "
    assert child.line() == "all handed over"
    child.kill()
    assert set(read_entries(tmp_path / "ledger").votes) == {"q0", "q1", "q2", "q3"}


def test_a_request_that_was_under_way_when_its_process_was_killed_counts_as_spent(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger"
    child = Child(path, "under way")
    assert [child.line(), child.line()] == ["opened ", "sent"]
    assert read_entries(path).spent_usd({"q0", "q1"}) == 0.25 + 0.125  # while it holds the file
    child.kill()
    with Ledger.opened(path) as ledger:
        assert ledger.entries.under_way == {0: ("q0", 0.25)}
        assert ledger.entries.spent_usd({"q0", "q1"}) == 0.25 + 0.125
        assert [a.outcome for a in ledger.entries.attempts_on({"q0", "q1"})] == ["vote", LOST]
        ledger.came(ledger.sent("q0", usd=0.25), Attempt("q0", "vote", cost_usd=0.0625))
        assert ledger.entries.spent_usd({"q0"}) == 0.25 + 0.0625  # both


def test_the_second_of_two_processes_waits_and_finds_the_first_ones_votes(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = Child(path, "hold")
    assert first.line() == "opened "
    descriptor = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    second = Child(path, "look")
    first.go()
    assert first.end() == []
    assert second.line() == "opened mine"
    second.end()


def test_it_says_that_it_waits_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger"
    first = Child(path, "hold")
    assert first.line() == "opened "
    monkeypatch.setattr("lorapar_core.teachers.ledger.SAY_AFTER_S", 0.0)
    monkeypatch.setattr("lorapar_core.teachers.ledger.POLL_S", 0.01)
    threading.Timer(0.3, first.go).start()
    with Ledger.opened(path) as ledger:
        assert set(ledger.votes) == {"mine"}
    assert caplog.messages == ["another run asks this teacher the same; waiting for its votes"]
    first.end()


def test_a_reader_beside_a_writer_sees_whole_votes_and_ever_more(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    child = Child(path, "keep")
    assert child.line() == "opened "
    counts: list[int] = []
    while not counts or counts[-1] < 200:
        votes = read_entries(path).votes
        assert all(ballot.reply == "x" * 100 for ballot in votes.values())
        counts.append(len(votes))
        child.line()
    child.kill()
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
