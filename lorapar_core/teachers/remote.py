"""Any provider as teacher, through litellm. litellm carries the request; retries are ours.

litellm's own retries, router and budget lose votes under faults and are switched off. A vote is
written to a log on disk (one fsync) before it counts, so a killed run asks only for the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from lorapar_core import events
from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.errors import VoteError
from lorapar_core.teachers.ballot import Ballot, parse_reply

LONGEST_PAUSE_S = 60.0
_PASSING = (408, 409, 425, 429)  # timeout, conflict, too early, too many requests


class RemoteTeacher:
    """Votes of one model behind an API."""

    def __init__(self, teacher: TeacherConfig, runtime: RuntimeConfig, *, log: Path) -> None:
        self._teacher = teacher
        self._runtime = runtime
        self._log = log

    def vote(self, questions: Sequence[tuple[str, str]]) -> list[Ballot]:
        """A ballot for each (example id, user message), in that order.

        Raises:
            VoteError: the teacher refuses (no key, a wrong one, an unknown model), or keeps
                failing. Votes that came before stay in the log.
        """
        held = read_log(self._log)
        missing = [question for question in questions if question[0] not in held]
        if missing:
            self._require_key()
            with self._log.open("a", encoding="utf-8") as log:
                held.update(asyncio.run(self._ask_all(missing, log)))
        return [held[example_id] for example_id, _ in questions]

    def _require_key(self) -> None:
        variable = self._teacher.api_key_env
        if variable and not os.environ.get(variable):
            raise VoteError(
                f"teacher {self._teacher.name!r} takes its key from the environment variable "
                f"{variable}, which is not set; export it"
            )

    async def _ask_all(
        self, questions: Sequence[tuple[str, str]], log: TextIO
    ) -> dict[str, Ballot]:
        """Ask for every vote; after a failure start no more, but keep those on their way."""
        slots = asyncio.Semaphore(self._runtime.vote_concurrency)
        ballots: dict[str, Ballot] = {}
        failures: list[VoteError] = []

        async def one(question: tuple[str, str]) -> None:
            async with slots:
                if failures:
                    return
                try:
                    ballot = await self._ask(*question)
                except VoteError as error:
                    failures.append(error)
                    return
            append(log, ballot)
            ballots[ballot.example_id] = ballot
            events.progress(step=len(ballots), total=len(questions))

        await asyncio.gather(*(one(question) for question in questions))
        if failures:
            raise failures[0]
        return ballots

    async def _ask(self, example_id: str, message: str) -> Ballot:
        """One vote: asked once more if the reply is no label, then an abstention."""
        started, attempts = time.monotonic(), 0
        prompt_tokens = completion_tokens = 0
        cost: float | None = 0.0
        reply, served, label = "", "", None
        for _ in range(2):
            response, tries = await self._complete(message)
            attempts += tries
            reply = _storable(response.choices[0].message.content or "")
            served = _storable(response.model or self._teacher.model)
            prompt_tokens += response.usage.prompt_tokens
            completion_tokens += response.usage.completion_tokens
            price = response._hidden_params.get("response_cost")
            cost = None if cost is None or price is None else cost + price
            label = parse_reply(reply)
            if label is not None:
                break
        return Ballot(
            example_id=example_id,
            label=label,
            reply=reply,
            served_model=served,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=cost,
            seconds=time.monotonic() - started,
            attempts=attempts,
        )

    async def _complete(self, message: str) -> tuple[Any, int]:
        """The provider's response and how many requests it took."""
        litellm, reason = quiet_litellm(), ""
        for attempt in range(1, self._runtime.attempts + 1):
            try:
                response = await litellm.acompletion(**self._request(message))
                if response.choices and getattr(response, "usage", None):
                    return response, attempt
                reason = "the reply has no choices"
            except _any_error(litellm) as error:
                if _is_final(error):
                    raise VoteError(self._refused(error)) from None
                reason = type(error).__name__
            if attempt < self._runtime.attempts:
                await asyncio.sleep(_pause(attempt))
        raise VoteError(
            f"teacher {self._teacher.name!r} failed {self._runtime.attempts} times in a row "
            f"({reason} last); the votes so far are kept, run again to go on"
        )

    def _request(self, message: str) -> dict[str, Any]:
        teacher = self._teacher
        request: dict[str, Any] = {
            "model": teacher.model,
            "messages": [{"role": "user", "content": message}],
            "temperature": teacher.temperature,
            "max_tokens": teacher.max_tokens,
            "timeout": self._runtime.request_timeout_s,
            "num_retries": 0,
            "max_retries": 0,
        }
        if teacher.api_base:
            request["api_base"] = teacher.api_base
        if teacher.api_key_env:
            request["api_key"] = os.environ[teacher.api_key_env]
        elif teacher.api_base:
            request["api_key"] = "none"  # litellm insists on one for an own server
        return request

    def _refused(self, error: Exception) -> str:
        key = os.environ.get(self._teacher.api_key_env, "") if self._teacher.api_key_env else ""
        reason = " ".join(str(error).split())
        reason = (reason.replace(key, "***") if key else reason)[:300]  # cut last: no half a key
        return (
            f"teacher {self._teacher.name!r} ({self._teacher.model}) refuses: "
            f"{type(error).__name__}: {reason}; check its model, api_base and key"
        )


def quiet_litellm() -> Any:
    """litellm, imported with no network access, no `.env`, no debug output and no caches."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.telemetry = False
    return litellm


def _any_error(litellm: Any) -> type[Exception]:
    """What all of litellm's errors derive from: openai's own base class. (The `OpenAIError` of
    `litellm.exceptions` is one more class beneath it.)"""
    kind: type[Exception] = litellm.exceptions.openai.OpenAIError
    return kind


def _is_final(error: Exception) -> bool:
    """Whether asking again can't mend it: the server finds fault with the request or the key.

    The status decides, since litellm has no class for some of them (403 is a plain `APIError`).
    """
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _PASSING


def _pause(attempt: int) -> float:
    """Seconds before the next attempt: doubling, with jitter, so that clients spread out."""
    return min(LONGEST_PAUSE_S, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)


def _storable(text: str) -> str:
    """`text` without half characters, which JSON can carry (a reply cut inside an emoji) and
    Parquet can't."""
    return text.encode("utf-8", "replace").decode()


def append(log: TextIO, ballot: Ballot) -> None:
    """Put a vote on disk."""
    log.write(json.dumps(asdict(ballot)) + "\n")
    log.flush()
    os.fsync(log.fileno())


def read_log(path: Path) -> dict[str, Ballot]:
    """Votes already on disk, by example; a line torn by a kill is passed over."""
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")
    if lines[-1]:  # torn by a kill: end it, so that the next vote has a line of its own
        with path.open("ab") as log:
            log.write(b"\n")
    ballots = (_ballot(line) for line in lines if line)
    return {ballot.example_id: ballot for ballot in ballots if ballot}


def _ballot(line: bytes) -> Ballot | None:
    try:
        fields: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return None
    return Ballot(**fields)
