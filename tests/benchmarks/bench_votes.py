"""Votes of a teacher on loopback: their speed, what faults cost, what a budget admits, and kills.

The server (tests/teacher_server.py) runs in a process of its own, on cores that it shares with us.

- throughput: 10,000 votes, 100 ms each, 64 in flight, beside litellm's bare `acompletion` with as
  many in flight: what this machine's client can do at all. 640 votes a second would be ideal.
- faults: 5,000 votes through 10 % 429 (half of them with Retry-After), 10 % 500, 5 % hang, 5 %
  HTML, 5 % empty choices, 5 % off-schema, and a server that is gone for ten seconds, at 60 requests
  a second. The bound is 1.3 x attempts / rate, plus the outage and one time-out.
- budget: 64 in flight and a cap that is met; then the cap is raised.
- kills: fifty of them (-9), at random moments.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from figures import figure, machine
from teacher_server import Running, teacher_server

from lorapar_core import events
from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.errors import BudgetReached
from lorapar_core.teachers.ballot import Question
from lorapar_core.teachers.ledger import Ledger, read_entries
from lorapar_core.teachers.purse import NANO, Purse
from lorapar_core.teachers.remote import RemoteTeacher, quiet_litellm
from lorapar_core.vote import rendering

CONCURRENCY = 64
LATENCY_S = 0.1
IDEAL_PER_S = CONCURRENCY / LATENCY_S
FAULTS = {"429": 0.1, "500": 0.1, "hang": 0.05, "html": 0.05, "empty": 0.05, "off_schema": 0.05}
OUTAGE_S, TIMEOUT_S, PER_S = 10.0, 3.0, 60.0
USD = {"input_usd": 1.0, "output_usd": 2.0}
USAGE = {"prompt_tokens": 300, "completion_tokens": 8}
VOTE_USD = (300 * 1.0 + 8 * 2.0) / 1e6


def main() -> None:
    machine(threads=1)
    logging.disable(logging.CRITICAL)
    events.set_sink(lambda _event: None)
    quiet_litellm()
    throughput()
    faults()
    budget()
    kills()


def questions(count: int) -> list[Question]:
    return [Question(f"{k:064x}", f"What is {k} plus 1?", str(k + 1)) for k in range(count)]


@contextmanager
def ledger_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "ledger"


def ask(
    server: Running, path: Path, count: int, *, purse: Purse | None = None, **changed: Any
) -> float:
    """Votes on `count` questions; returns the seconds."""
    fields = {"name": "far", "model": "openai/x", "api_base": server.url, **USD, **changed}
    teacher = TeacherConfig.model_validate({"concurrency": CONCURRENCY, **fields})
    render = rendering(teacher, target="m", role_play=True)
    runtime = RuntimeConfig(request_timeout_s=TIMEOUT_S)
    with Ledger.opened(path) as ledger:
        missing = [q for q in questions(count) if q.example_id not in ledger.votes]
        started = time.perf_counter()
        RemoteTeacher(teacher, runtime, render=render, purse=purse).vote(missing, ledger)
        return time.perf_counter() - started


def throughput(count: int = 10_000) -> None:
    with teacher_server(latency_s=LATENCY_S) as server, ledger_path() as path:
        bare = [bare_per_s(server, 1000)]
        before = psutil.Process().memory_info().rss
        ours = count / ask(server, path, count)
        grown = psutil.Process().memory_info().rss - before
        bare.append(bare_per_s(server, 1000))
    limit = min(IDEAL_PER_S, max(bare))
    figure("votes_per_s", ours, "1/s")
    figure("bare_litellm_per_s", max(bare), "1/s")
    figure("votes_of_reachable", ours / limit, "ratio")
    figure("votes_memory_growth_mib", grown / 2**20, "MiB")


def bare_per_s(server: Running, count: int) -> float:
    """Requests a second with nothing around them."""
    import litellm

    async def all_of_them() -> None:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one(question: Question) -> None:
            async with slots:
                await litellm.acompletion(
                    model="openai/x",
                    messages=[{"role": "user", "content": question.prompt}],
                    api_base=server.url,
                    api_key="none",
                    num_retries=0,
                    max_retries=0,
                )

        await asyncio.gather(*map(one, questions(count)))

    started = time.perf_counter()
    asyncio.run(all_of_them())
    return count / (time.perf_counter() - started)


def faults(count: int = 5000) -> None:
    gone = [count // 2, OUTAGE_S]
    with (
        teacher_server(latency_s=0.02, faults=FAULTS, gone=gone) as server,
        ledger_path() as path,
    ):
        seconds = ask(server, path, count, requests_per_minute=60 * PER_S)
        entries, seen = read_entries(path), server.seen()["seen"]
    attempts = Counter(attempt.outcome for attempt in entries.attempts)
    bound = 1.3 * len(entries.attempts) / PER_S + OUTAGE_S + TIMEOUT_S
    figure("fault_votes", len(entries.votes), "votes")
    abstained = [b for b in entries.votes.values() if b.label is None]
    figure("fault_abstentions", len(abstained), "votes")
    figure("fault_attempts", len(entries.attempts), "requests")
    unrecorded = max(0, seen["requests"] - len(entries.attempts))
    figure("fault_requests_unrecorded", unrecorded, "requests")
    figure("fault_requests_in_the_outage", attempts["unreachable"], "requests")
    figure("fault_seconds_of_bound", seconds / bound, "ratio")


def budget(count: int = 2000) -> None:
    cap = 0.4 * count * VOTE_USD
    with (
        teacher_server(latency_s=0.05, faults={"429": 0.05, "off_schema": 0.02}) as server,
        ledger_path() as path,
        tempfile.TemporaryDirectory() as folder,
    ):
        for allowed in (cap, 10 * cap):
            spent = read_entries(path).spent_usd({q.example_id for q in questions(count)})
            purse = Purse.create(Path(folder) / "purse", usd_cap=allowed, votes_cap=None, usd=spent)
            try:
                ask(server, path, count, purse=purse)
            except BudgetReached:
                seen = server.seen()["seen"]
                billed = (seen["voted"] + seen["off_schema"]) * VOTE_USD
                figure("budget_overspend_usd", max(0.0, billed - allowed), "USD")
                figure("budget_unused_share", 1 - billed / allowed, "ratio")
            finally:
                purse.close()
        seen = server.seen()["seen"]
        billed = (seen["voted"] + seen["off_schema"]) * VOTE_USD
        figure("budget_votes_after_raise", len(read_entries(path).votes), "votes")
        figure("budget_bill_not_recorded_usd", abs(billed - _recorded(path)), "USD")


def _recorded(path: Path) -> float:
    nanos = sum(round((a.cost_usd or 0.0) * NANO) for a in read_entries(path).attempts)
    return nanos / NANO


def kills(count: int = 1500) -> None:
    program = Path(__file__).parents[1] / "kills" / "killed_votes.py"
    with teacher_server(latency_s=0.05) as server, ledger_path() as path:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", program, server.url, path, str(count), "50", "0"],
            capture_output=True,
            text=True,
            check=True,
        )
        seen = server.seen()
    told = json.loads(done.stdout)
    figure("kills", told["kills"], "kills")
    figure("kills_votes_lost", told["lost"], "votes")
    figure("kills_votes", told["votes"], "votes")
    asked_again = seen["seen"]["requests"] - count
    figure("kills_asked_again_a_kill", asked_again / told["kills"], "requests")


if __name__ == "__main__":
    main()
