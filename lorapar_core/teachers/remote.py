"""Any provider as teacher, through litellm, which carries requests and does nothing else.

litellm's own retries, router, budget and cache lose votes under faults, or take one endpoint's for
another's; they are switched off, and `asking` does that work. What is done here is to tell failures
apart: whether one concerns the moment, this example, or the teacher.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.errors import VoteError
from lorapar_core.secrets import crossing_out, secrets_of
from lorapar_core.teachers.asking import Asking, Failed, Limits, Reply
from lorapar_core.teachers.ballot import Ballot, Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.teachers.prices import most_tokens, price_of
from lorapar_core.teachers.purse import Purse
from lorapar_core.teachers.replies import AGAIN, ASK, REQUEST, Form, digit_logprobs, parse_reply
from lorapar_core.teachers.teacher import Render

LONGEST_REPLY = 2000
"""Characters of a reply that is no label: more says nothing more, and Parquet keeps them all."""
REFUSALS = 10
"""Examples that may be refused one after the other, for no reason that is clearly theirs, until it
is the teacher that refuses: out of credit, say."""
_OUT_OF_QUOTA = "insufficient_quota"
_PASSING = (408, 409, 425, 429)  # timeout, conflict, too early, too many requests
_GAVE_UP = (408, 504)  # waiting for an answer that may have been made, and billed
_TOO_LARGE = 413
_UNREADABLE = 422  # what litellm makes of a body that it can't read
_BAD_REQUEST = 400
_LOG = logging.getLogger(__name__)


class RemoteTeacher:
    """Votes of one model behind an API."""

    def __init__(
        self,
        teacher: TeacherConfig,
        runtime: RuntimeConfig,
        *,
        render: Render,
        purse: Purse | None = None,
    ) -> None:
        self._teacher = teacher
        self._runtime = runtime
        self._render = render
        self._purse = purse
        _require_keys(teacher)
        self._cross_out = crossing_out(secrets_of([teacher], os.environ))
        self._form: Form = "text"
        self._answered = False
        self._answered_in: set[Form] = set()
        self._refused = 0

    def vote(self, questions: Sequence[Question], ledger: Ledger) -> Mapping[str, Ballot]:
        """See `Teacher`.

        Raises:
            VoteError: no key is set, the teacher refuses, has been gone too long, or the disk
                refuses.
            BudgetReached: the purse hasn't enough for another request.
            Stopped: the process was told to end.
        """
        self._litellm = quiet_litellm()
        self._form = self._first_form()
        self._answered = bool(ledger.votes)
        return asyncio.run(self._ask(questions, ledger))

    async def _ask(self, questions: Sequence[Question], ledger: Ledger) -> Mapping[str, Ballot]:
        asking = Asking(
            self._teacher.name,
            self._send,
            ledger=ledger,
            limits=limits(self._teacher, self._runtime),
            tokens=self._most_tokens,
            price=price_of(self._teacher),
            purse=self._purse,
        )
        return await asking.ask(questions)

    def _first_form(self) -> Form:
        if self._teacher.reply != "auto":
            return self._teacher.reply
        model = self._teacher.model
        if self._teacher.api_base:  # a server of one's own, whatever its model is called
            return "text"
        return "schema" if self._litellm.supports_response_schema(model) else "text"

    def _most_tokens(self, question: Question) -> tuple[int, int]:
        message = self._render(question, self._form)
        return most_tokens(message) + 2 * self._teacher.max_tokens, self._teacher.max_tokens

    async def _send(self, question: Question, unread: str | None) -> Reply:
        form = self._form
        request = self._request(self._messages(question, form, unread), form)
        patience = self._runtime.request_timeout_s
        try:
            async with asyncio.timeout(patience):  # litellm's own begins again with every byte
                response = await self._litellm.acompletion(**request)
        except TimeoutError:
            raise Failed("timeout", f"no reply within {patience:g} s", billed_usd=None) from None
        except _any_error(self._litellm) as error:
            failed = self._failed(error)
            bad = failed.status == _BAD_REQUEST and not self._is_the_examples(error)
            if bad and self._steps_down(form, failed):
                raise Failed("no_schema", str(failed), status=failed.status) from None
            raise failed from None
        try:
            return self._reply(response, form)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise Failed("malformed", self._said(error), billed_usd=None) from None

    def _steps_down(self, form: Form, failed: Failed) -> bool:
        """Whether the question is to be put again in the form that every server knows."""
        if self._teacher.reply != "auto" or form == "text" or form in self._answered_in:
            return False
        if self._form != "text":
            _LOG.warning(
                "teacher %r doesn't take replies by JSON schema (%s); it is asked for plain text",
                self._teacher.name,
                failed,
            )
        self._form = "text"
        return True

    def _messages(self, question: Question, form: Form, unread: str | None) -> list[Any]:
        messages = [{"role": "user", "content": self._render(question, form)}]
        if unread is None:
            return messages
        return [
            *messages,
            {"role": "assistant", "content": unread[:LONGEST_REPLY] or "…"},
            {"role": "user", "content": AGAIN + ASK[form]},
        ]

    def _request(self, messages: list[Any], form: Form) -> dict[str, Any]:
        teacher = self._teacher
        request: dict[str, Any] = {
            "model": teacher.model,
            "messages": messages,
            "max_tokens": teacher.max_tokens,
            "timeout": self._runtime.request_timeout_s,
            "num_retries": 0,
            "max_retries": 0,
            **REQUEST[form],
        }
        if teacher.temperature is not None:
            request["temperature"] = teacher.temperature
        if teacher.api_base:
            request["api_base"] = teacher.api_base
        if teacher.api_key_env:
            request["api_key"] = os.environ[teacher.api_key_env]
        elif teacher.api_base:
            request["api_key"] = "none"  # litellm insists on one for an own server
        if teacher.header_envs:
            request["extra_headers"] = {
                header: os.environ[variable] for header, variable in teacher.header_envs.items()
            }
        return request

    def _reply(self, response: Any, form: Form) -> Reply:
        usage = getattr(response, "usage", None)
        if not response.choices or usage is None:
            raise Failed("empty", "the reply has no choices", billed_usd=None)
        self._answered = True
        self._answered_in.add(form)
        self._refused = 0
        choice = response.choices[0]
        said = choice.message.content or ""
        label, one, two = parse_reply(said), None, None
        if form == "logprobs" and (found := _logprobs(choice)):
            one, two = found
            label = 1 if one >= two else 2
        return Reply(
            text=self._storable(said)[:LONGEST_REPLY],
            label=label,
            served_model=self._storable(response.model or self._teacher.model),
            prompt_tokens=max(0, usage.prompt_tokens or 0),
            completion_tokens=max(0, usage.completion_tokens or 0),
            logprob_1=one,
            logprob_2=two,
        )

    def _failed(self, error: Exception) -> Failed:
        """What an error of litellm's says, told apart by its status: litellm has no class for some
        of them (403 is a plain `APIError`)."""
        said = self._said(error)
        status = getattr(error, "status_code", None)
        status = status if isinstance(status, int) else None
        headers = getattr(error, "litellm_response_headers", None)
        if headers is None and isinstance(error, self._litellm.Timeout):
            return Failed("timeout", said, billed_usd=None)
        if status is not None and (status < _BAD_REQUEST or status == _UNREADABLE):
            return Failed("malformed", said, billed_usd=None)
        passes = status in _PASSING and _OUT_OF_QUOTA not in said
        if status is None or status >= 500 or passes:
            if headers is None:  # no response came, or one that is no completion
                if "onnection" in said:  # lost on the way, it may have been billed
                    free = 0.0 if _never_connected(error) else None
                    return Failed("unreachable", said, billed_usd=free)
                return Failed("malformed", said, billed_usd=None)
            # litellm says 500, by this class, of a body at 200 that it can't read (Anthropic's).
            unread = isinstance(error, self._litellm.APIConnectionError)
            free = status not in _GAVE_UP and _is_json(headers) and not unread
            return Failed(
                str(status),
                said,
                status=status,
                retry_after_s=_retry_after_s(headers),
                billed_usd=0.0 if free else None,
            )
        if self._is_the_examples(error):
            return Failed(str(status), said, concerns="example", status=status)
        if status == _BAD_REQUEST and self._answered and self._refused < REFUSALS:
            self._refused += 1
            return Failed(str(status), said, concerns="example?", status=status)
        return Failed(str(status), self._refusal(error, said), concerns="teacher", status=status)

    def _is_the_examples(self, error: Exception) -> bool:
        """Whether an example is refused for its length or its content."""
        kinds = self._litellm.ContentPolicyViolationError, self._litellm.ContextWindowExceededError
        return isinstance(error, kinds) or getattr(error, "status_code", None) == _TOO_LARGE

    def _refusal(self, error: Exception, said: str) -> str:
        who = f"teacher {self._teacher.name!r} ({self._teacher.model})"
        if isinstance(error, self._litellm.UnsupportedParamsError):
            return (
                f"{who} doesn't take what it is asked with: {said}; give it temperature: null, or "
                "another `reply`"
            )
        return f"{who} refuses: {said}; check its model, api_base and key, and its account"

    def _said(self, error: Exception) -> str:
        text = self._storable(" ".join(str(error).split()))
        return f"{type(error).__name__}: {text}"[:300]  # cut last: no half a key

    def _storable(self, text: str) -> str:
        """`text` without secrets, and without half characters, which JSON can carry (a reply cut
        inside an emoji) and Parquet can't."""
        crossed: str = self._cross_out(text)
        return crossed.encode("utf-8", "replace").decode()


def limits(teacher: TeacherConfig, runtime: RuntimeConfig) -> Limits:
    """The pace and patience for one teacher."""
    return Limits(
        requests_per_minute=teacher.requests_per_minute,
        tokens_per_minute=teacher.tokens_per_minute,
        concurrency=teacher.concurrency or runtime.vote_concurrency,
        deadline_s=runtime.vote_deadline_s,
        outage_s=runtime.outage_s,
        longest_cool_down_s=runtime.request_timeout_s,
    )


def _require_keys(teacher: TeacherConfig) -> None:
    """Refuse to ask without the teacher's key and headers.

    Raises:
        VoteError: a variable is not set.
    """
    for variable in teacher.variables:
        if not os.environ.get(variable):
            raise VoteError(
                f"teacher {teacher.name!r} takes a key from the environment variable {variable}, "
                "which is not set; export it"
            )


def quiet_litellm() -> Any:
    """litellm, imported with no network access, no `.env`, no debug output and no caches."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.telemetry = False
    litellm.drop_params = False  # what is asked is in the vote's key
    return litellm


def _any_error(litellm: Any) -> type[Exception]:
    """What all of litellm's errors derive from: openai's own base class. (The `OpenAIError` of
    `litellm.exceptions` is one more class beneath it.)"""
    kind: type[Exception] = litellm.exceptions.openai.OpenAIError
    return kind


def _never_connected(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__name__ in ("ConnectError", "ConnectTimeout"):  # of httpx
            return True
        error = error.__cause__ or error.__context__
    return False


def _logprobs(choice: Any) -> tuple[float, float] | None:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not content:
        return None
    return digit_logprobs((top.token, top.logprob) for top in content[0].top_logprobs or ())


def _is_json(headers: Mapping[str, str]) -> bool:
    """Whether an error is the provider's own word: who answers so bills nothing. A page of HTML may
    hide a completion."""
    return "json" in headers.get("content-type", "")


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that the provider asks to wait: a number, or a date (RFC 9110)."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        when = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(when) - time.time()) if when else 0.0
