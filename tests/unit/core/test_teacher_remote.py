"""A teacher behind an API, asked through litellm, against a real server on loopback."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from teacher_server import expected_vote, teacher_server

from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.errors import BudgetReached, VoteError
from lorapar_core.teachers.ballot import Attempt, Ballot, Question
from lorapar_core.teachers.ledger import Entries, Ledger, read_entries
from lorapar_core.teachers.prices import MILLION
from lorapar_core.teachers.purse import Purse
from lorapar_core.teachers.remote import (
    LONGEST_REPLY,
    REFUSALS,
    RemoteTeacher,
    _retry_after_s,
)
from lorapar_core.teachers.replies import AGAIN, ASK, REQUEST

HTML = {"Content-Type": "text/html"}
KEY = "sk-very-secret-0123456789"
HEADER_TOKEN = "tok-98765-also-secret"


@dataclass
class Answer:
    """What the server sends back."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    does: str = ""
    """Instead: `drop` the connection, `cut` the reply short, `drip` it without end."""


def completion(content: str | None = "System 1", **changed: Any) -> Answer:
    """A chat completion as OpenAI writes it."""
    message = {"role": "assistant", "content": content}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-model-7",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23},
        **changed,
    }
    return Answer({name: value for name, value in body.items() if value != "absent"})


def refusal(status: int, message: str = "no luck", code: str = "x", **more: Any) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "code": code}
    return Answer({"error": error}, status, **more)


def _asked(body: Mapping[str, Any]) -> str:
    """The question, wherever a provider has it."""
    if "contents" in body:
        return str(body["contents"][0]["parts"][0]["text"])
    content = body["messages"][0]["content"]
    return str(content if isinstance(content, str) else content[0]["text"])


class Server:
    """An OpenAI-compatible server that answers as `answer(question, how often asked)` says."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str, int], Answer] = lambda _question, _nth: completion()
        self.any_path = False
        self.released = threading.Event()
        self._guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = outer._take(self.path, self.headers.items(), body)
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._give(answer)

            def _give(self, answer: Answer) -> None:
                outer.released.wait(answer.after_s)
                if answer.does:
                    self.close_connection = True
                if answer.does == "drop":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                content = answer.body
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", **answer.headers}
                self.send_header("Content-Length", str(len(payload)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if answer.does == "cut":
                    self.wfile.write(payload[:20])
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                while answer.does == "drip" and not outer.released.wait(0.05):
                    self.wfile.write(b" ")
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def _take(self, path: str, headers: Iterable[tuple[str, str]], body: dict[str, Any]) -> Answer:
        with self._guard:
            assert path == "/v1/chat/completions" or self.any_path
            question = _asked(body)
            nth = sum(_asked(request) == question for request in self.requests)
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in headers})
        return self.answer(question, nth)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("lorapar_core.teachers.asking.pause_s", lambda _failures: 0.001)
    monkeypatch.setattr("lorapar_core.events._sink", lambda _event: None)
    running = Server()
    yield running
    running.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def teacher(url: str, **changed: Any) -> TeacherConfig:
    fields = {"name": "far", "model": "openai/x", "api_base": url, **changed}
    return TeacherConfig.model_validate(fields)


def questions(*ids: str) -> list[Question]:
    return [Question(i, f"Which system does {i} need?", "42") for i in ids]


@dataclass
class Voted:
    late: Mapping[str, Ballot]
    entries: Entries

    @property
    def ballot(self) -> Ballot:
        (ballot,) = self.entries.votes.values()
        return ballot

    @property
    def attempts(self) -> list[Attempt]:
        return self.entries.attempts

    @property
    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.attempts]


def vote(
    server: Server | str,
    ledger: Path,
    *ids: str,
    runtime: Mapping[str, Any] | None = None,
    purse: Purse | None = None,
    **changed: Any,
) -> Voted:
    """Ask about the ids that the ledger doesn't hold, as the stage does."""
    far = RemoteTeacher(
        teacher(server if isinstance(server, str) else server.url, **changed),
        RuntimeConfig.model_validate(
            {"vote_concurrency": 2, "request_timeout_s": 10, **(runtime or {})}
        ),
        render=lambda question, form: f"{form}: {question.prompt}",
        purse=purse,
    )
    with Ledger.opened(ledger) as opened:
        missing = [q for q in questions(*ids) if q.example_id not in opened.votes]
        late = far.vote(missing, opened)
    return Voted(late, read_entries(ledger))


def replies(*answers: Answer) -> Callable[[str, int], Answer]:
    """These first, then a completion."""
    return lambda _question, nth: answers[nth] if nth < len(answers) else completion()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """litellm imports for seconds at its first request, which some timeouts here don't leave it."""
    calm = Server()
    vote(calm, tmp_path_factory.mktemp("warm") / "ledger", "q", runtime={"request_timeout_s": 60})
    calm.close()


# A clean vote, and what is asked.


def test_a_clean_vote(server: Server, ledger: Path) -> None:
    server.answer = lambda question, _nth: completion("2" if "q2" in question else " system 1. ")
    voted = vote(server, ledger, "q1", "q2", "q3")
    assert voted.entries.votes["q1"] == Ballot("q1", 1, " system 1. ", "served-model-7")
    assert voted.entries.votes["q2"] == Ballot("q2", 2, "2", "served-model-7")
    assert voted.late == {}
    assert voted.outcomes == ["vote"] * 3
    for attempt in voted.attempts:
        assert (attempt.status, attempt.prompt_tokens, attempt.completion_tokens) == (200, 20, 3)
        assert attempt.seconds > 0
    assert len(server.requests) == 3


def test_what_is_asked_is_the_question_and_nothing_that_the_recipe_does_not_say(
    server: Server, ledger: Path
) -> None:
    vote(server, ledger, "q1", max_tokens=9, temperature=0.3)
    assert server.requests == [
        {
            "model": "x",
            "messages": [{"role": "user", "content": "text: Which system does q1 need?"}],
            "max_tokens": 9,
            "temperature": 0.3,
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer none"


def test_temperature_0_is_sent_and_null_is_not(server: Server, ledger: Path) -> None:
    vote(server, ledger, "q1")
    vote(server, ledger, "q2", temperature=None)
    assert server.requests[0]["temperature"] == 0.0
    assert "temperature" not in server.requests[1]


def test_a_second_asking_says_what_was_wrong(server: Server, ledger: Path) -> None:
    server.answer = replies(completion("y" * 3000), completion(""), completion("System 2"))
    voted = vote(server, ledger, "q1")
    assert voted.outcomes == ["off_schema"] * 2
    assert voted.ballot == Ballot("q1", None, "", "served-model-7", "off_schema")
    one, two = (request["messages"] for request in server.requests)
    assert two == [
        *one,
        {"role": "assistant", "content": "y" * LONGEST_REPLY},
        {"role": "user", "content": AGAIN + ASK["text"]},
    ]


def test_a_reply_of_nothing_is_put_again_and_then_abstains(server: Server, ledger: Path) -> None:
    server.answer = lambda _question, _nth: completion(None)
    voted = vote(server, ledger, "q1")
    assert (voted.ballot.label, voted.ballot.abstained) == (None, "off_schema")
    assert server.requests[1]["messages"][1]["content"] == "…"


def test_half_a_character_is_kept_as_a_mark(server: Server, ledger: Path) -> None:
    """JSON carries it (a reply cut inside an emoji), Parquet doesn't: the shard could never end."""
    server.answer = lambda *_: completion("System \ud83d", model="m\udc00")
    voted = vote(server, ledger, "q1")
    assert (voted.ballot.reply, voted.ballot.served_model) == ("System ?", "m?")


# Forms of reply.


def test_by_schema_the_provider_is_held_to_two_values(server: Server, ledger: Path) -> None:
    server.answer = lambda *_: completion('{"system": "System 2"}')
    voted = vote(server, ledger, "q1", reply="schema")
    assert voted.ballot.label == 2
    (request,) = server.requests
    assert request["response_format"] == REQUEST["schema"]["response_format"]
    assert request["messages"][0]["content"].startswith("schema: ")


def test_a_schema_that_is_refused_is_no_reason_to_ask_in_another_form_than_the_recipe_says(
    server: Server, ledger: Path
) -> None:
    server.answer = lambda *_: refusal(400, "response_format is not supported")
    with pytest.raises(VoteError, match="response_format is not supported"):
        vote(server, ledger, "q1", reply="schema")
    assert len(server.requests) == 1


@pytest.fixture
def by_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if litellm knew that the model takes a schema (to an api_base, auto asks for text)."""
    monkeypatch.setattr(RemoteTeacher, "_first_form", lambda _self: "schema")


def needs_text(question: str, _nth: int) -> Answer:
    if question.startswith("schema"):
        return refusal(400, "response_format is not supported")
    return completion("System 2")


@pytest.mark.usefixtures("by_schema")
def test_a_server_without_schemas_is_asked_for_text(server: Server, ledger: Path) -> None:
    server.answer = needs_text
    voted = vote(server, ledger, *"abcdef", runtime={"vote_concurrency": 1})
    assert {ballot.label for ballot in voted.entries.votes.values()} == {2}
    forms = [request["messages"][0]["content"].split(":")[0] for request in server.requests]
    assert forms == ["schema"] + ["text"] * 6
    assert "response_format" not in server.requests[-1]
    assert voted.outcomes == ["no_schema"] + ["vote"] * 6, "a request is an attempt"
    assert voted.attempts[0] == Attempt(
        "a", "no_schema", 400, cost_usd=0.0, seconds=voted.attempts[0].seconds
    )
    assert not voted.entries.under_way


@pytest.mark.usefixtures("by_schema")
def test_a_late_no_to_a_schema_is_no_refusal_of_its_example(server: Server, ledger: Path) -> None:
    """Two are asked at once; the second one's 400 comes after the first one's answer as text."""

    def answer(question: str, nth: int) -> Answer:
        answer = needs_text(question, nth)
        answer.after_s = 0.5 if question.startswith("schema") and "late" in question else 0.0
        return answer

    server.answer = answer
    voted = vote(server, ledger, "early", "late")
    assert {i: b.label for i, b in voted.entries.votes.items()} == {"early": 2, "late": 2}
    assert sorted(voted.outcomes) == ["no_schema"] * 2 + ["vote"] * 2


@pytest.mark.usefixtures("by_schema")
def test_a_re_run_finds_out_again_that_there_are_no_schemas(server: Server, ledger: Path) -> None:
    """It knows that the teacher has answered before, and not how it was asked."""
    server.answer = needs_text
    vote(server, ledger, "q1")
    voted = vote(server, ledger, "q1", "q2", "q3")
    assert {i: b.label for i, b in voted.entries.votes.items()} == {"q1": 2, "q2": 2, "q3": 2}


@pytest.mark.usefixtures("by_schema")
def test_one_that_has_answered_by_schema_refuses_an_example_not_the_schema(
    server: Server, ledger: Path
) -> None:
    server.answer = lambda question, _nth: (
        refusal(400, "too odd") if "q2" in question else completion('{"system": "System 1"}')
    )
    voted = vote(server, ledger, "q1", "q2", "q3", runtime={"vote_concurrency": 1})
    assert {i: b.abstained for i, b in voted.late.items()} == {"q2": "refused"}
    assert voted.outcomes == ["vote", "400", "vote"]
    assert all(request["response_format"] for request in server.requests)


@pytest.mark.parametrize(
    ("model", "changed", "form"),
    [
        ("openai/gpt-4o-mini", {"api_base": ""}, "schema"),
        ("openai/gpt-3.5-turbo", {"api_base": ""}, "text"),
        ("openai/gpt-4o-mini", {}, "text"),  # a server of one's own
        ("openai/gpt-4o-mini", {"reply": "logprobs"}, "logprobs"),
    ],
)
def test_the_first_form_is_what_is_known_of_the_model(
    server: Server,
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    changed: dict[str, Any],
    form: str,
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    vote(server, ledger, "q1", model=model, api_key_env="TEACHER_KEY", **changed)
    (request,) = server.requests
    assert request["messages"][0]["content"].startswith(f"{form}: ")
    assert ("response_format" in request) == (form == "schema")


def top(*pairs: tuple[str, float | None]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in pairs]


def with_logprobs(text: str, alternatives: list[dict[str, Any]]) -> Answer:
    position = {"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": alternatives}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return completion(choices=[{**choice, "logprobs": {"content": [position]}}])


def test_by_log_probabilities_the_likelier_digit_is_the_vote(server: Server, ledger: Path) -> None:
    alternatives = {
        "q1": top(("1", -1.5), ("2", -0.25), (" 1", -0.5)),
        "q2": top(("1", -0.125), ("two", -3.0)),  # the other one is too unlikely to be told
    }
    server.answer = lambda question, _nth: with_logprobs(
        "1", alternatives["q1" if "q1" in question else "q2"]
    )
    voted = vote(server, ledger, "q1", "q2", reply="logprobs")
    assert voted.entries.votes["q1"] == Ballot(
        "q1", 2, "1", "served-model-7", logprob_1=-0.5, logprob_2=-0.25
    )
    assert voted.entries.votes["q2"] == Ballot("q2", 1, "1", "served-model-7")
    for request in server.requests:
        assert (request["logprobs"], request["top_logprobs"]) == (True, 5)


@pytest.mark.parametrize(
    "alternatives",
    [None, [], [{"token": None, "logprob": None, "bytes": None}], top(("1", None), ("2", None))],
)
def test_odd_log_probabilities_end_nothing(server: Server, ledger: Path, alternatives: Any) -> None:
    server.answer = replies(with_logprobs("1", alternatives))
    voted = vote(server, ledger, "q1", reply="logprobs")
    assert voted.ballot.label == 1
    assert voted.outcomes in (["vote"], ["malformed", "vote"])


# Failures told apart.


@pytest.mark.parametrize(
    ("answer", "outcome", "cost_usd"),
    [
        (refusal(429), "429", 0.0),
        (refusal(500), "500", 0.0),
        (refusal(503), "503", 0.0),
        (Answer(b"<html>Connection refused</html>", 502, HTML), "502", None),
        (Answer(b"<html>busy</html>", 429, HTML), "429", None),
        (Answer(b"", 500, {"Content-Type": "text/plain"}), "500", None),
        (refusal(500, headers={"Content-Type": "application/problem+json"}), "500", 0.0),
        (refusal(422), "malformed", None),
        (refusal(529), "529", 0.0),
        (refusal(409), "409", 0.0),
        (refusal(408), "408", None),
        (refusal(504), "504", None),
        (Answer(b"<html>gateway</html>"), "malformed", None),
        (Answer(b""), "malformed", None),
        (Answer(b"null"), "malformed", None),
        (Answer(b'{"choices": [{"mess'), "malformed", None),
        (Answer(b"\xff\xfe{"), "malformed", None),
        (completion(choices=None), "malformed", None),
        (completion(choices=[{}]), "malformed", None),
        (completion(choices="absent"), "malformed", None),
        (Answer({"error": {"message": "overloaded", "code": 503}}), "malformed", None),
        (completion(model=7), "malformed", None),
        (completion(choices=[]), "empty", None),
        (Answer(does="drop"), "unreachable", None),
        (Answer({"id": "x" * 500}, does="cut"), "unreachable", None),
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_what_passes_is_asked_again_and_told_by_its_name(
    server: Server, ledger: Path, answer: Answer, outcome: str, cost_usd: float | None
) -> None:
    server.answer = replies(answer, answer)
    voted = vote(server, ledger, "q1", input_usd=1.0, output_usd=2.0)
    assert voted.ballot == Ballot("q1", 1, "System 1", "served-model-7")
    assert voted.outcomes == [outcome, outcome, "vote"]
    assert [attempt.cost_usd for attempt in voted.attempts[:2]] == [cost_usd] * 2
    assert len(server.requests) == 3  # litellm makes none that nobody counts


@pytest.mark.usefixtures("server")
def test_a_server_that_is_not_there_costs_nothing_and_is_given_up(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorapar_core.teachers.asking.FIRST_ANSWER_S", 0.0)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(VoteError, match=r"not answered for .* s \(unreachable: "):
            vote(url, ledger, "q1", input_usd=1, output_usd=1)
    attempts = read_entries(ledger).attempts
    assert {(a.outcome, a.status, a.cost_usd) for a in attempts} == {("unreachable", None, 0.0)}


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("does", ["", "drip"])
def test_a_request_without_end_is_given_up_in_time(server: Server, ledger: Path, does: str) -> None:
    slow = completion()
    slow.after_s, slow.does = (0.0 if does else 30.0), does
    server.answer = replies(slow)
    began = time.monotonic()
    voted = vote(server, ledger, "q1", runtime={"request_timeout_s": 0.4})
    assert time.monotonic() - began < 3
    assert voted.outcomes == ["timeout", "vote"]
    assert voted.attempts[0].cost_usd is None
    assert 0.3 < voted.attempts[0].seconds < 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-5", 0), ("soon", 0), ("nan", 0), ("", 0), (None, 0)],
)
def test_the_wait_that_a_provider_asks_for_is_read(value: str | None, seconds: float) -> None:
    assert _retry_after_s({} if value is None else {"retry-after": value}) == seconds


def test_it_may_be_a_date() -> None:
    ahead, past = (formatdate(time.time() + seconds, usegmt=True) for seconds in (30, -30))
    assert 28 <= _retry_after_s({"retry-after": ahead}) <= 30
    assert _retry_after_s({"retry-after": past}) == 0


def test_the_wait_that_a_provider_asks_for_is_waited(server: Server, ledger: Path) -> None:
    server.answer = replies(refusal(429, headers={"Retry-After": "0.4"}))
    began = time.monotonic()
    assert vote(server, ledger, "q1").outcomes == ["429", "vote"]
    assert time.monotonic() - began > 0.4


# Refusals.


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_a_refusal_before_any_answer_ends_it_at_once(
    server: Server, ledger: Path, status: int
) -> None:
    server.answer = lambda *_: refusal(status, "the reason\nin lines")
    with pytest.raises(
        VoteError, match=r"teacher 'far' \(openai/x\) refuses: .*the reason in"
    ) as e:
        vote(server, ledger, "q1")
    assert "check its model, api_base and key" in str(e.value)
    assert "\n" not in str(e.value)
    assert len(server.requests) == 1
    assert read_entries(ledger).votes == {}
    assert [a.outcome for a in read_entries(ledger).attempts] == [str(status)]


@pytest.mark.parametrize(("status", "kept"), [(400, False), (413, True)])
@pytest.mark.parametrize("answered", ["in this run", "in an earlier run"])
def test_after_answers_a_refusal_is_of_the_example(
    server: Server, ledger: Path, status: int, kept: bool, answered: str
) -> None:
    """For good only if it says so."""
    if answered == "in an earlier run":
        vote(server, ledger, "q1")
    server.answer = lambda question, _nth: (
        refusal(status, "too odd") if "q2" in question else completion()
    )
    voted = vote(server, ledger, "q1", "q2", "q3", runtime={"vote_concurrency": 1})
    refused = (voted.entries.votes if kept else voted.late)["q2"]
    assert (refused.label, refused.abstained) == (None, "refused")
    assert "too odd" in refused.reply
    assert set(voted.late) == ({"q2"} - set(voted.entries.votes))
    assert set(voted.entries.votes) == ({"q1", "q2", "q3"} if kept else {"q1", "q3"})
    assert len(server.requests) == 3
    server.answer = lambda *_: completion()
    again = vote(server, ledger, "q1", "q2", "q3").entries.votes
    assert again["q2"].label == (None if kept else 1)


@pytest.mark.parametrize("answered", ["in this run", "in an earlier run"])
def test_one_that_refuses_example_after_example_is_refusing_itself(
    server: Server, ledger: Path, answered: str
) -> None:
    """Its model may have been withdrawn, which some say by 400: no thousand abstentions of it."""
    server.answer = lambda question, _nth: (
        completion() if "first" in question else refusal(400, "model withdrawn")
    )
    if answered == "in an earlier run":
        vote(server, ledger, "first")
    ids = ["first", *(f"q{k}" for k in range(100))]
    with pytest.raises(VoteError, match=r"teacher 'far' \(openai/x\) refuses: .*model withdrawn"):
        vote(server, ledger, *ids, runtime={"vote_concurrency": 1})
    votes = read_entries(ledger).votes
    assert set(votes) == {"first"}
    assert len(server.requests) == 1 + REFUSALS + 1


def test_refusals_with_answers_in_between_are_of_their_examples(
    server: Server, ledger: Path
) -> None:
    """All but every tenth of them."""
    count = 3 * REFUSALS
    server.answer = lambda question, _nth: (
        completion() if re.search(r"q\d*0 ", question) else refusal(400, "too odd")
    )
    voted = vote(server, ledger, *(f"q{k}" for k in range(count)), runtime={"vote_concurrency": 1})
    answered = [k % 10 == 0 for k in range(count)]
    assert voted.outcomes == ["vote" if label else "400" for label in answered]
    assert set(voted.entries.votes) == {f"q{k}" for k in range(count) if answered[k]}
    assert set(voted.late) == {f"q{k}" for k in range(count) if not answered[k]}


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_key_that_is_revoked_ends_it_though_it_has_answered(
    server: Server, ledger: Path, status: int
) -> None:
    server.answer = lambda question, _nth: completion() if "q1" in question else refusal(status)
    with pytest.raises(VoteError, match="refuses"):
        vote(server, ledger, "q1", "q2", runtime={"vote_concurrency": 1})
    assert set(read_entries(ledger).votes) == {"q1"}


@pytest.mark.parametrize(
    "answer",
    [
        refusal(
            400, "This model's maximum context length is 8192 tokens", "context_length_exceeded"
        ),
        refusal(
            400,
            "Your request was rejected as a result of our safety system content_policy_violation",
            "content_policy_violation",
        ),
    ],
    ids=["length", "content"],
)
def test_an_example_that_is_too_long_or_not_allowed_is_refused_even_as_the_first(
    server: Server, ledger: Path, answer: Answer
) -> None:
    server.answer = lambda question, _nth: answer if "q1" in question else completion()
    voted = vote(server, ledger, "q1", "q2", runtime={"vote_concurrency": 1})
    assert voted.entries.votes["q1"].abstained == "refused"
    assert voted.entries.votes["q2"].label == 1


def test_an_account_that_runs_dry_ends_it_and_a_topped_up_one_has_all_votes(
    server: Server, ledger: Path
) -> None:
    """Some say it by 400, as of a bad example."""
    ids = [f"q{k}" for k in range(200)]
    funded = True

    def answer(_question: str, _nth: int) -> Answer:
        if funded or len(server.requests) <= 60:
            return completion()
        return refusal(400, "Your credit balance is too low")

    funded, server.answer = False, answer
    with pytest.raises(VoteError, match=r"refuses: .*credit balance.*and its account"):
        vote(server, ledger, *ids, runtime={"vote_concurrency": 8})
    votes = read_entries(ledger).votes
    assert len(votes) == 60
    assert {ballot.label for ballot in votes.values()} == {1}
    assert len(server.requests) <= 60 + REFUSALS + 8
    funded = True
    voted = vote(server, ledger, *ids, runtime={"vote_concurrency": 8})
    assert {i: b.label for i, b in voted.entries.votes.items()} == dict.fromkeys(ids, 1)
    assert voted.late == {}


@pytest.mark.parametrize("answered", [False, True])
def test_a_quota_that_is_used_up_is_no_rate_limit(
    server: Server, ledger: Path, answered: bool
) -> None:
    server.answer = lambda question, _nth: (
        completion()
        if answered and "q1" in question
        else refusal(429, "You exceeded your quota: insufficient_quota", "insufficient_quota")
    )
    with pytest.raises(VoteError, match=r"refuses: .*insufficient_quota"):
        vote(server, ledger, "q1", "q2", runtime={"vote_concurrency": 1})
    assert len(server.requests) == 1 + answered


def test_a_parameter_that_a_model_does_not_take_is_named_before_anything_is_sent(
    server: Server, ledger: Path
) -> None:
    with pytest.raises(VoteError, match=r"give it temperature: null, or another `reply`"):
        vote(server, ledger, "q1", model="openai/o1")
    assert not server.requests


# Providers whose replies litellm reads in another way each.

ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "x",
    "content": [{"type": "text", "text": "System 1"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 20, "output_tokens": 3},
}
GEMINI = {
    "candidates": [
        {
            "content": {"parts": [{"text": "System 1"}], "role": "model"},
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3, "totalTokenCount": 23},
}
NATIVE = {"anthropic": Answer(ANTHROPIC), "gemini": Answer(GEMINI)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [HTML, {}], ids=["html", "said to be json"])
@pytest.mark.parametrize("provider", ["deepseek", "openrouter", "gemini", "anthropic", "mistral"])
def test_a_page_instead_of_a_completion_passes_whoever_the_provider_is(
    server: Server, ledger: Path, provider: str, kind: dict[str, str]
) -> None:
    """A proxy's, say, which may hide a completion that was paid."""
    page = Answer(b"<html><body>Please log in</body></html>", 200, kind)
    server.any_path = True
    server.answer = lambda _question, nth: page if nth < 2 else NATIVE.get(provider, completion())
    voted = vote(server, ledger, "q1", model=f"{provider}/x", input_usd=1.0, output_usd=2.0)
    assert voted.ballot.label == 1
    name = {"anthropic": "500", "mistral": "unreachable"}.get(provider, "malformed")  # litellm's
    assert voted.outcomes == [name, name, "vote"]
    assert [attempt.cost_usd for attempt in voted.attempts[:2]] == [None, None]
    assert len(server.requests) == 3


# Money.


def test_a_price_that_nobody_knows_is_unknown_and_one_that_is_given_is_exact(
    server: Server, ledger: Path
) -> None:
    vote(server, ledger, "q1", model="openai/gpt-4o-mini")  # at a server of one's own
    vote(server, ledger, "q2", input_usd=3.0, output_usd=15.0)
    vote(server, ledger, "q3", input_usd=0.0, output_usd=0.0)
    costs = {a.example_id: a.cost_usd for a in read_entries(ledger).attempts}
    assert costs == {"q1": None, "q2": (20 * 3 + 3 * 15) / MILLION, "q3": 0.0}


@pytest.mark.parametrize(
    "usage",
    ["absent", None, {}, {"prompt_tokens": -9, "completion_tokens": 3, "total_tokens": 3}],
    ids=["absent", "null", "empty", "negative"],
)
def test_a_reply_that_does_not_tell_its_tokens_is_a_vote_of_unknown_cost(
    server: Server, ledger: Path, usage: Any
) -> None:
    server.answer = lambda *_: completion(usage=usage)
    voted = vote(server, ledger, "q1", input_usd=3.0, output_usd=15.0)
    assert voted.ballot.label == 1
    (attempt,) = voted.attempts
    assert (attempt.prompt_tokens, attempt.cost_usd) == (0, None)


def test_a_teacher_stops_where_its_next_request_might_cost_too_much(
    server: Server, ledger: Path
) -> None:
    usd_cap = 0.003
    with (
        closing(Purse.create(ledger.with_name("purse"), usd_cap=usd_cap, votes_cap=None)) as purse,
        pytest.raises(BudgetReached),
    ):
        vote(server, ledger, *(f"q{k}" for k in range(50)), purse=purse, input_usd=3, output_usd=3)
    entries = read_entries(ledger)
    spent = sum(attempt.cost_usd or math.inf for attempt in entries.attempts)
    assert 0 < spent <= usd_cap
    assert len(entries.votes) == len(server.requests) > 1


# Secrets.


def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("TEACHER_HEADER", f"Token {HEADER_TOKEN}")
    return {"api_key_env": "TEACHER_KEY", "header_envs": {"X-Org": "TEACHER_HEADER"}}


def nothing_is_told(text: str) -> None:
    for secret in (KEY, HEADER_TOKEN):
        assert secret[:6] not in text


@pytest.mark.parametrize("name", ["TEACHER_KEY", "TEACHER_HEADER"])
def test_a_variable_that_is_not_set_is_named(
    server: Server, ledger: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given = secrets(monkeypatch)
    monkeypatch.delenv(name)
    with pytest.raises(VoteError, match=f"environment variable {name}, which is not set"):
        vote(server, ledger, "q1", **given)
    assert server.requests == []


def test_secrets_reach_the_server_and_nothing_that_it_echoes_is_kept(
    server: Server, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = f"you sent {KEY} and Token {HEADER_TOKEN}, that is {HEADER_TOKEN}"

    def answer(question: str, nth: int) -> Answer:
        if "q1" in question:
            return completion(echo, model=echo)
        if "q2" in question:
            return (refusal(500, echo), completion())[nth]
        return refusal(400, echo)

    server.answer = answer
    given = secrets(monkeypatch)
    voted = vote(server, ledger, "q1", "q2", "q3", runtime={"vote_concurrency": 1}, **given)
    for headers in server.headers:
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["x-org"] == f"Token {HEADER_TOKEN}"
    assert voted.entries.votes["q1"].reply == "you sent *** and ***, that is ***"
    assert voted.late["q3"].abstained == "refused"
    nothing_is_told(voted.late["q3"].reply)
    nothing_is_told(ledger.read_text())
    nothing_is_told(json.dumps(server.requests))  # what it said is not sent back to it


@pytest.mark.parametrize("status", [401, 500])
def test_no_error_tells_a_secret(
    server: Server,
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    server.answer = lambda *_: refusal(status, f"Incorrect API key provided: {KEY}")
    monkeypatch.setattr("lorapar_core.teachers.asking.FIRST_ANSWER_S", 0.0)
    with pytest.raises(VoteError) as error:
        vote(server, ledger, "q1", **secrets(monkeypatch))
    told: BaseException | None = error.value
    while told:
        nothing_is_told(str(told))
        told = told.__cause__
    assert "***" in str(error.value)
    nothing_is_told(caplog.text + ledger.read_text())


@pytest.mark.parametrize("before", range(150, 300, 5))
def test_no_part_of_a_secret_is_told_wherever_a_message_is_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    far = RemoteTeacher(
        teacher(server.url, **secrets(monkeypatch)), RuntimeConfig(), render=lambda *_: ""
    )
    said = far._said(ValueError("x" * before + KEY + "y" * 1000))
    nothing_is_told(said)
    assert len(said) == 300


@pytest.mark.parametrize("key", ["1", "System", "s"])
def test_a_key_that_is_part_of_a_label_spoils_no_vote(
    server: Server, ledger: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Servers of one's own take any key, such as 1."""
    monkeypatch.setenv("TEACHER_KEY", key)
    assert vote(server, ledger, "q1", api_key_env="TEACHER_KEY").ballot.label == 1
    assert len(server.requests) == 1


# All faults together.


@pytest.mark.usefixtures("warm")
def test_under_all_faults_at_once_every_vote_is_there_and_asked_no_more_than_needed(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorapar_core.events._sink", lambda _event: None)
    monkeypatch.setattr("lorapar_core.teachers.asking.pause_s", lambda _failures: 0.1)
    given = secrets(monkeypatch)
    ids = [f"q{k}" for k in range(200)]
    faults = {"429": 0.08, "500": 0.05, "hang": 0.01, "html": 0.03, "empty": 0.03}
    told = {"faults": {**faults, "off_schema": 0.05}, "echo_secrets": True, "gone": [100, 1]}
    runtime = {"vote_concurrency": 32, "request_timeout_s": 2}
    with teacher_server(**told, retry_after_s=0.2) as server:
        voted = vote(server.url, ledger, *ids, runtime=runtime, input_usd=1, output_usd=1, **given)
        seen = server.seen()["seen"]
        before = seen["requests"]
        vote(server.url, ledger, *ids, runtime=runtime, **given)
        assert server.seen()["seen"]["requests"] == before
    assert voted.late == {}
    assert set(voted.entries.votes) == set(ids)
    for i, ballot in voted.entries.votes.items():
        if ballot.label is None:
            assert voted.outcomes.count("off_schema") >= 2
        else:
            assert ballot.label == expected_vote(f"text: Which system does {i} need?")
    outcomes = voted.outcomes
    assert outcomes.count("vote") == sum(b.label is not None for b in voted.entries.votes.values())
    lost = outcomes.count("unreachable") + outcomes.count("timeout")
    assert before <= len(outcomes) <= before + lost  # each request is an attempt
    for name, outcome in [
        ("429", "429"),
        ("500", "500"),
        ("html", "malformed"),
        ("empty", "empty"),
    ]:
        assert 0 <= seen[name] - outcomes.count(outcome) <= lost
    assert not voted.entries.under_way
    assert KEY not in ledger.read_text()
    assert HEADER_TOKEN not in ledger.read_text()
