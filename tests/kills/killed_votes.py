"""Votes of one teacher, by a process that may be killed at any moment.

    python killed_votes.py URL LEDGER COUNT KILLS SEED

imports litellm once, then forks: each child votes on COUNT examples over the same ledger, and is
killed (-9) KILLS times after a random while, then left alone. A child writes a line for each vote
when it counts, before the next can be asked. Prints one JSON line: kills, votes that had counted
and were gone (lost), and requests noted in the ledger.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lorapar_core import events
from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.teachers.ballot import Question
from lorapar_core.teachers.ledger import Ledger, read_entries
from lorapar_core.teachers.remote import RemoteTeacher, quiet_litellm
from lorapar_core.vote import rendering

CONCURRENCY = 16


def questions(count: int) -> list[Question]:
    return [Question(f"{k:064x}", f"What is {k} plus 1?", str(k + 1)) for k in range(count)]


def vote(url: str, path: Path, count: int, counted: int) -> None:
    """In the child: vote on what is missing; `counted` is a pipe."""
    teacher = TeacherConfig(name="far", model="openai/x", api_base=url, concurrency=CONCURRENCY)
    render = rendering(teacher, target="m", role_play=True)
    with Ledger.opened(path) as ledger:

        def tell(_event: dict[str, Any]) -> None:
            os.write(counted, f"{len(ledger.votes)}\n".encode())

        events.set_sink(tell)
        missing = [q for q in questions(count) if q.example_id not in ledger.votes]
        RemoteTeacher(teacher, RuntimeConfig(), render=render).vote(missing, ledger)


def attempt(url: str, path: Path, count: int, after_s: float | None) -> tuple[int, bool]:
    """How many votes a child said had counted, and whether it was killed before its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        vote(url, path, count, writer)
        os._exit(0)
    os.close(writer)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as lines:
        told = [int(line) for line in lines]
    _, status = os.waitpid(child, 0)
    return max(told, default=0), os.WIFSIGNALED(status)


def main(url: str, ledger: str, count: int, kills: int, seed: int) -> None:
    quiet_litellm()
    path, draw = Path(ledger), random.Random(seed)
    lost = killed = 0
    while killed < kills and len(read_entries(path).votes) < count:
        counted, was_killed = attempt(url, path, count, draw.uniform(0.02, 0.5))
        killed += was_killed
        lost += max(0, counted - len(read_entries(path).votes))
    attempt(url, path, count, None)
    entries = read_entries(path)
    print(
        json.dumps(
            {
                "kills": killed,
                "votes": len(entries.votes),
                "lost": lost,
                "requests": entries.sent,
                "under_way_at_a_kill": len(entries.under_way),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
