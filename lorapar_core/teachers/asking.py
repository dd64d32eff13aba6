"""Asks one teacher for many votes: what is due to whom when requests fail, and when to stop.

Every request ends as an attempt in the ledger. What a vote comes to:

- a label, or after a second reply that is none an abstention: kept for good;
- what will pass (429, 5xx, a time-out, a server that is gone, a reply that is no completion) is
  asked again after a pause, until the vote's deadline, an abstention that is not kept: another run
  may ask again. It counts from the vote's first failure, and stands still while the breaker is
  open;
- an example that the provider refuses for its length or content is an abstention; one that it
  refuses without saying so ("example?") is one too, but not kept;
- a teacher whose first `UNREADABLE` replies are no labels ends the stage, and none of these
  abstentions is kept: it is asked wrongly;
- a refusal that concerns the teacher (key, model) ends the stage, as does one that has been gone
  for too long. Votes so far are kept.

`send` is the transport. It is given a question and the reply that was no label before, if any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lorapar_core import events
from lorapar_core.errors import BudgetReached, LoraparError, Stopped, VoteError
from lorapar_core.stopping import stop_request
from lorapar_core.teachers.ballot import LATE, OFF_SCHEMA, REFUSED, Attempt, Ballot, Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.pace import Breaker, Bucket, Concurrency, Time, pause_s
from lorapar_core.teachers.prices import Price
from lorapar_core.teachers.purse import Purse

FIRST_ANSWER_S = 120.0
"""A teacher that has never answered is given up after so long: its address is wrong."""
WAIT_S = 0.2
LONGEST_WAIT_S = 300.0
"""For others' reservations, with nothing of our own under way, if no request may last longer."""
TOO_MANY_REQUESTS, UNAVAILABLE = 429, 503
"""Who answers so is there, and busy."""
UNREADABLE = 20
FEW = 5
"""Examples that always fail, asked last, look as if their teacher had gone."""
ENOUGH = 10
"""Replies after which their mean length tells what the next will take of the token bucket."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion. `label` None: it is neither of the two."""

    text: str
    label: int | None
    served_model: str
    prompt_tokens: int
    """0: the server doesn't tell, and nobody knows what the reply cost."""
    completion_tokens: int
    logprob_1: float | None = None
    logprob_2: float | None = None


class Failed(Exception):
    """A request without a completion. `billed_usd` None: nobody knows what it cost."""

    def __init__(
        self,
        outcome: str,
        message: str,
        *,
        concerns: Literal["moment", "example", "example?", "teacher"] = "moment",
        status: int | None = None,
        retry_after_s: float = 0.0,
        billed_usd: float | None = 0.0,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.concerns = concerns
        self.status = status
        self.retry_after_s = retry_after_s
        self.billed_usd = billed_usd


Send = Callable[[Question, str | None], Awaitable[Reply]]
Tokens = Callable[[Question], tuple[int, int]]
"""Prompt and completion tokens that a question takes at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of asking one teacher."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrency: int = 32
    deadline_s: float = 600.0
    outage_s: float = 7200.0
    longest_cool_down_s: float = 60.0


class Asking:
    """One teacher's votes on their way."""

    def __init__(
        self,
        name: str,
        send: Send,
        *,
        ledger: Ledger,
        limits: Limits,
        tokens: Tokens,
        price: Price | None = None,
        purse: Purse | None = None,
        time: Time | None = None,
    ) -> None:
        self._name = name
        self._send = send
        self._ledger = ledger
        self._limits = limits
        self._tokens = tokens
        self._price = price
        self._purse = purse
        self._time = time or Time(asyncio.get_running_loop().time, asyncio.sleep)
        self._requests = Bucket(limits.requests_per_minute, self._time)
        self._token_bucket = Bucket(limits.tokens_per_minute, self._time)
        self._concurrency = Concurrency(limits.concurrency, self._time)
        self._breaker = Breaker(name, self._time, longest_s=limits.longest_cool_down_s)
        self._has_answered = bool(ledger.votes)
        self._is_there = False
        self._longest_wait_s = max(LONGEST_WAIT_S, limits.longest_cool_down_s)
        self._under_way: set[asyncio.Task[Reply | Failed | Ballot]] = set()
        self._halt: LoraparError | None = None
        self._halted = asyncio.Event()
        self._all_begun = False
        self._at_the_cap = False
        self._spent_usd = 0.0
        self._read = any(ballot.label for ballot in ledger.votes.values())
        self._unread: list[Ballot] = []
        self._used_tokens: list[int] = [0, 0]  # in so many replies, so many tokens

    async def ask(self, questions: Sequence[Question]) -> dict[str, Ballot]:
        """Have a vote on each; returns the abstentions that the ledger doesn't keep.

        Raises:
            VoteError: the teacher refuses, is gone, or the disk refuses.
            BudgetReached: the next request might cost more than is left.
            Stopped: the process was told to end.
        """
        begun = done = 0
        late: dict[str, Ballot] = {}
        left = iter(questions)

        async def work() -> None:
            nonlocal begun, done
            for question in left:
                begun += 1
                self._all_begun = begun == len(questions)
                try:
                    ballot = await self._vote(question)
                except BudgetReached:  # the others end what they have begun
                    self._at_the_cap = True
                    return
                if question.example_id not in self._ledger.votes:
                    late[ballot.example_id] = ballot
                done += 1
                events.progress(step=done, total=len(questions), **self._figures())

        loop = asyncio.get_running_loop()
        stop = Stopped(f"teacher {self._name!r} was told to stop; its votes so far are kept")

        def told_to_stop() -> None:
            loop.call_soon_threadsafe(self._stop, stop)

        with stop_request(then=told_to_stop):
            count = min(self._limits.concurrency, len(questions))
            await self._until_done({asyncio.create_task(work()) for _ in range(count)})
        if self._halt:
            raise self._halt
        self._ledger.keep_now(self._unread)
        if self._at_the_cap and self._purse:
            raise BudgetReached(
                f"teacher {self._name!r} stops at the cap ({self._purse.told()} spent); its votes "
                "so far are kept"
            )
        return {i: ballot for i, ballot in late.items() if i not in self._ledger.votes}

    async def _until_done(self, workers: set[asyncio.Task[None]]) -> None:
        """Until all workers have ended. Once one fails, only what is under way is waited for."""
        halted = asyncio.create_task(self._until_halted())
        try:
            while workers and not self._halt:
                ended, _ = await asyncio.wait(
                    {*workers, halted}, return_when=asyncio.FIRST_COMPLETED
                )
                workers -= ended
                for task in ended - {halted}:
                    self._look_at(task)
        finally:  # an error of ours or Ctrl-C loses nothing that is paid either
            for task in (*workers, halted):
                task.cancel()
            await asyncio.gather(*workers, halted, *self._under_way, return_exceptions=True)

    async def _until_halted(self) -> None:
        await self._halted.wait()

    def _look_at(self, worker: asyncio.Task[None]) -> None:
        error = worker.exception()
        if isinstance(error, LoraparError):
            self._stop(error)
        elif error:
            raise error

    def _stop(self, why: LoraparError) -> None:
        """Send nothing more."""
        self._halt = self._halt or why
        self._halted.set()

    def _figures(self) -> dict[str, float]:
        return {"usd": round(self._spent_usd, 6)} if self._price and self._price.prompt else {}

    async def _vote(self, question: Question) -> Ballot:
        await self._afford(votes=1)
        kept = False
        try:
            ballot = await self._until_decided(question)
            kept = ballot.example_id in self._ledger.votes or ballot in self._unread
        finally:
            if self._purse:
                self._purse.settle_vote(kept=kept)
        return ballot

    async def _until_decided(self, question: Question) -> Ballot:
        unread: Reply | None = None
        failures = 0
        failing_since = excused_s = 0.0
        while True:
            came = await self._request(question, unread)
            if isinstance(came, Ballot):
                return came
            if isinstance(came, Reply):
                unread = came
                continue
            if came.concerns == "example?":
                return Ballot(question.example_id, None, str(came), "", REFUSED)
            now = self._breaker.closed_s() - excused_s
            failing_since = failing_since if failures else now
            if self._is_gone(came) or now - failing_since > self._limits.deadline_s:
                return self._late(question, came)
            failures += 1
            pause = pause_s(failures)
            asked_for = min(came.retry_after_s, self._limits.outage_s)
            excused_s += max(0.0, asked_for - pause)
            await self._time.sleep(max(pause, asked_for))

    def _late(self, question: Question, came: Failed) -> Ballot:
        _LOG.warning(
            "teacher %r gave no vote on example %s within %.0f s (%s last); it abstains",
            self._name,
            question.example_id,
            self._limits.deadline_s,
            came.outcome,
        )
        return Ballot(question.example_id, None, "", "", LATE)

    async def _request(self, question: Question, unread: Reply | None) -> Reply | Failed | Ballot:
        """One request, paced and afforded. What is sent is waited for, whoever else gives up."""
        tokens = self._tokens(question)
        most_usd = self._price.of(*tokens) if self._price else 0.0
        await self._concurrency.enter()
        task, probe = None, False
        taken = self._likely_tokens(tokens)
        try:
            await self._requests.take(1)
            await self._token_bucket.take(taken)
            probe = await self._breaker.wait()
            await self._afford(usd=most_usd)
            if self._halt:
                raise self._halt
            task = asyncio.create_task(
                self._carry_out(question, unread, most_usd, taken, probe=probe)
            )
        finally:
            if task is None:  # cancelled, or there is no money for it
                self._concurrency.leave()
                if probe:
                    self._breaker.end_probe()
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def _likely_tokens(self, most: tuple[int, int]) -> float:
        """What a request will take of the token bucket, as far as one can tell."""
        replies, tokens = self._used_tokens
        return tokens / replies if replies >= ENOUGH else sum(most)

    async def _carry_out(
        self,
        question: Question,
        unread: Reply | None,
        most_usd: float,
        taken: float,
        *,
        probe: bool,
    ) -> Reply | Failed | Ballot:
        """Note, send, note what came, settle, and keep what is a vote."""
        try:
            number = self._ledger.sent(question.example_id, usd=most_usd)
            began = self._time.now()
            came = await self._sent(question, unread)
            attempt = self._attempt(question, came, seconds=self._time.now() - began)
            self._ledger.came(number, attempt)
        finally:
            self._concurrency.leave()
        self._settle(most_usd, taken, attempt)
        self._learn(question.example_id, came, probe=probe)
        ballot = _decided(question, came, asked_before=unread is not None)
        if ballot:
            await self._keep(ballot)
        return ballot or came

    async def _keep(self, ballot: Ballot) -> None:
        """Off-schema abstentions only once the teacher has shown that it can vote."""
        if ballot.abstained == OFF_SCHEMA and not self._read:
            self._unread.append(ballot)
            if len(self._unread) >= UNREADABLE:
                raise VoteError(
                    f"the first {UNREADABLE} replies of teacher {self._name!r} are no labels, such "
                    f"as {ballot.reply[:100]!r}; raise its max_tokens (a model that reasons first "
                    "needs thousands), or set another `reply`"
                )
            return
        self._read |= ballot.label is not None
        shown = self._read and len(self._unread) < UNREADABLE  # not when it was given up just now
        unread, self._unread = (self._unread, []) if shown else ([], self._unread)
        for earlier in unread:
            await self._ledger.keep(earlier)
        await self._ledger.keep(ballot)

    async def _sent(self, question: Question, unread: Reply | None) -> Reply | Failed:
        try:
            return await self._send(question, unread.text if unread else None)
        except Failed as failed:
            return failed

    def _attempt(self, question: Question, came: Reply | Failed, *, seconds: float) -> Attempt:
        if isinstance(came, Failed):
            return Attempt(
                question.example_id,
                came.outcome,
                came.status,
                cost_usd=came.billed_usd,
                seconds=seconds,
            )
        tokens = came.prompt_tokens, came.completion_tokens
        return Attempt(
            question.example_id,
            "vote" if came.label else OFF_SCHEMA,
            200,
            *tokens,
            cost_usd=self._price.of(*tokens) if self._price and came.prompt_tokens else None,
            seconds=seconds,
        )

    def _settle(self, most_usd: float, taken: float, attempt: Attempt) -> None:
        """The bill takes the reservation's place; an unknown one leaves it."""
        actual = most_usd if attempt.cost_usd is None else attempt.cost_usd
        self._spent_usd += actual
        if self._purse:
            self._purse.settle(reserved_usd=most_usd, actual_usd=actual)
        used = attempt.prompt_tokens + attempt.completion_tokens
        self._token_bucket.give_back(taken - used)
        if used:
            self._used_tokens = [self._used_tokens[0] + 1, self._used_tokens[1] + used]

    def _learn(self, example_id: str, came: Reply | Failed, *, probe: bool) -> None:
        if isinstance(came, Reply) or came.concerns == "example":
            self._has_answered = True
            self._concurrency.answered()
            self._breaker.answered()
            return
        if came.concerns == "teacher":
            self._stop(VoteError(str(came)))
        if came.concerns != "moment":  # it tells neither that it is well nor that it is gone
            if probe:
                self._breaker.end_probe()
            return
        if came.status == TOO_MANY_REQUESTS:
            self._concurrency.overloaded()
        self._breaker.failed(
            f"{came.outcome}: {came}",
            example_id,
            probe=probe,
            retry_after_s=min(came.retry_after_s, self._limits.outage_s),
        )
        self._is_there |= came.status in (TOO_MANY_REQUESTS, UNAVAILABLE)

    async def _afford(self, *, usd: float = 0.0, votes: int = 0) -> None:
        """Reserve; where too little is left, first wait for what is reserved to come in lower.

        Raises:
            BudgetReached: it can't.
        """
        waited = 0.0
        while self._purse and (answer := self._purse.reserve(usd=usd, votes=votes)) != "yes":
            if answer == "no" or (not self._under_way and waited > self._longest_wait_s):
                raise BudgetReached(f"teacher {self._name!r} stops at the cap")
            began = self._time.now()
            await self._time.sleep(WAIT_S)
            waited += self._time.now() - began

    def _is_gone(self, came: Failed) -> bool:
        """Whether to wait no longer for a few last examples, on which alone the teacher fails.

        Raises:
            VoteError: it has been gone for too long, or refuses.
        """
        if came.concerns == "teacher":
            raise VoteError(str(came))
        patience = self._limits.outage_s
        if not self._has_answered and not self._is_there:
            patience = min(patience, FIRST_ANSWER_S)
        if self._breaker.silent_s <= patience:
            return False
        if self._has_answered and self._all_begun and self._breaker.failed_on < FEW:
            return True
        raise VoteError(
            f"teacher {self._name!r} has not answered for {self._breaker.silent_s:.0f} s "
            f"({came.outcome}: {came}); votes so far are kept, run again to go on"
        )


def _decided(question: Question, came: Reply | Failed, *, asked_before: bool) -> Ballot | None:
    """The vote that a request comes to, if it does."""
    if isinstance(came, Failed):
        if came.concerns != "example":
            return None
        return Ballot(question.example_id, None, str(came), "", REFUSED)
    if came.label is None and not asked_before:
        return None
    return Ballot(
        example_id=question.example_id,
        label=came.label,
        reply=came.text,
        served_model=came.served_model,
        abstained="" if came.label else OFF_SCHEMA,
        logprob_1=came.logprob_1,
        logprob_2=came.logprob_2,
    )
