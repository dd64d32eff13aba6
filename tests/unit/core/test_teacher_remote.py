"""A teacher behind an API, asked through litellm, against a real server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_inputs import files, spec

from lorapar_core import vote
from lorapar_core.config import RuntimeConfig, TeacherConfig
from lorapar_core.errors import VoteError
from lorapar_core.parquet import read_table, write_table
from lorapar_core.prepare import EXAMPLES
from lorapar_core.teachers import remote
from lorapar_core.teachers.ballot import Ballot, parse_reply, write_ballots
from lorapar_core.teachers.remote import LONGEST_PAUSE_S, RemoteTeacher, append, read_log

KEY = "sk-very-secret-0123456789"
PAUSE = remote._pause
Answer = tuple[int, dict[str, Any] | bytes]


def completion(content: str | None, **changed: Any) -> dict[str, Any]:
    """A chat completion as OpenAI writes it."""
    message = {"role": "assistant", "content": content}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-model-7",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23},
        **changed,
    }


def failure(code: int, message: str) -> Answer:
    return code, {"error": {"message": message, "type": "error", "code": str(code)}}


class Server:
    """An OpenAI-compatible server that answers as `answer(question, how often asked)` says."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[str, int], Answer] = lambda _q, _n: (200, completion("System 1"))
        self._guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = outer._take(self.path, self.headers["Authorization"], body)
                payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def _take(self, path: str, key: str | None, body: dict[str, Any]) -> Answer:
        with self._guard:
            assert path == "/v1/chat/completions"
            question = body["messages"][-1]["content"]
            asked = sum(r["messages"][-1]["content"] == question for r in self.requests)
            self.requests.append(body)
            self.keys.append(key)
        return self.answer(question, asked)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "_pause", lambda _attempt: 0.001)
    running = Server()
    yield running
    running.close()


def teacher(server: Server, **changed: Any) -> TeacherConfig:
    fields = {"name": "far", "model": "openai/x", "api_base": server.url, **changed}
    return TeacherConfig.model_validate(fields)


def remote_teacher(
    server: Server, log: Path, *, attempts: int = 4, **changed: Any
) -> RemoteTeacher:
    runtime = RuntimeConfig(attempts=attempts, vote_concurrency=2, request_timeout_s=10)
    return RemoteTeacher(teacher(server, **changed), runtime, log=log)


def questions(*ids: str) -> list[tuple[str, str]]:
    return [(example_id, f"Which system does {example_id} need?") for example_id in ids]


def lines(log: Path) -> list[str]:
    return [json.loads(line)["example_id"] for line in log.read_text().splitlines()]


def test_half_a_character_is_kept_as_a_mark(server: Server, tmp_path: Path) -> None:
    """JSON carries it (a reply cut inside an emoji), Parquet doesn't: the shard could never end."""
    server.answer = lambda _question, asked: (
        (200, json.dumps(completion("System \ud83d")).encode()) if asked < 2 else (500, {})
    )
    ballots = remote_teacher(server, tmp_path / "log").vote(questions("q1"))
    assert (ballots[0].label, ballots[0].reply) == (None, "System ?")
    write_ballots(tmp_path, ballots, teacher="far")


def test_a_key_that_is_not_set_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(VoteError, match="environment variable NO_SUCH_KEY, which is not set"):
        remote_teacher(server, tmp_path / "log", api_key_env="NO_SUCH_KEY").vote(questions("q1"))
    assert server.requests == []


def test_a_clean_vote(server: Server, tmp_path: Path) -> None:
    def answer(question: str, _asked: int) -> Answer:
        return 200, completion("System 2" if "q2" in question else " system 1. ")

    server.answer = answer
    asked = questions("q1", "q2", "q3")
    ballots = remote_teacher(server, tmp_path / "log", temperature=0.3, max_tokens=9).vote(asked)
    assert [(b.example_id, b.label) for b in ballots] == [("q1", 1), ("q2", 2), ("q3", 1)]
    for ballot in ballots:
        assert ballot.served_model.endswith("served-model-7")
        assert (ballot.prompt_tokens, ballot.completion_tokens) == (20, 3)
        assert ballot.attempts == 1
        assert ballot.logprob_1 is ballot.logprob_2 is None
        assert ballot.seconds > 0
    assert ballots[0].reply == " system 1. "
    assert len(server.requests) == 3
    for request in server.requests:
        assert request["model"] == "x"
        assert (request["temperature"], request["max_tokens"]) == (0.3, 9)
        assert len(request["messages"]) == 1
    assert sorted(lines(tmp_path / "log")) == ["q1", "q2", "q3"]


def test_an_unknown_price_is_none(server: Server, tmp_path: Path) -> None:
    (unknown,) = remote_teacher(server, tmp_path / "a").vote(questions("q"))
    assert unknown.cost_usd is None
    server.answer = lambda _q, _n: (200, completion("System 1", model="gpt-4o-mini"))
    (known,) = remote_teacher(server, tmp_path / "b", model="openai/gpt-4o-mini").vote(
        questions("q")
    )
    assert known.cost_usd is not None
    assert 0 < known.cost_usd < 0.001


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_passing_failure_is_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    def answer(_question: str, asked: int) -> Answer:
        return failure(status, "busy") if asked < 2 else (200, completion("System 2"))

    server.answer = answer
    (ballot,) = remote_teacher(server, tmp_path / "log").vote(questions("q"))
    assert (ballot.label, ballot.attempts) == (2, 3)
    assert len(server.requests) == 3  # no retries that we don't count


def test_a_reply_that_is_no_completion_is_asked_again(server: Server, tmp_path: Path) -> None:
    replies: list[Answer] = [
        (200, completion("", choices=[])),
        (200, b"<html>gateway</html>"),
        (200, completion("System 1")),
    ]
    server.answer = lambda _question, asked: replies[asked]
    (ballot,) = remote_teacher(server, tmp_path / "log").vote(questions("q"))
    assert (ballot.label, ballot.attempts) == (1, 3)


def test_a_slow_server_is_given_up(server: Server, tmp_path: Path) -> None:
    released = threading.Event()

    def answer(_question: str, asked: int) -> Answer:
        if asked == 0:
            released.wait(5)
        return 200, completion("System 1")

    server.answer = answer
    runtime = RuntimeConfig(attempts=2, request_timeout_s=0.3)
    (ballot,) = RemoteTeacher(teacher(server), runtime, log=tmp_path / "log").vote(questions("q"))
    released.set()
    assert (ballot.label, ballot.attempts) == (1, 2)


def test_an_off_schema_reply_is_asked_once_more(server: Server, tmp_path: Path) -> None:
    def answer(question: str, asked: int) -> Answer:
        clear = "q1" in question and asked == 1
        return 200, completion("System 2" if clear else "It depends: System 1 or System 2.")

    server.answer = answer
    one, two = remote_teacher(server, tmp_path / "log").vote(questions("q1", "q2"))
    assert (one.label, one.attempts, one.prompt_tokens) == (2, 2, 40)
    assert (two.label, two.attempts) == (None, 2)
    assert two.reply == "It depends: System 1 or System 2."
    assert len(server.requests) == 4


def test_an_empty_reply_is_an_abstention(server: Server, tmp_path: Path) -> None:
    server.answer = lambda _q, _n: (200, completion(None))
    (ballot,) = remote_teacher(server, tmp_path / "log").vote(questions("q"))
    assert (ballot.label, ballot.reply) == (None, "")


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_a_refusal_ends_it_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server.answer = lambda _q, _n: failure(status, f"Incorrect API key provided: {KEY}")
    far = remote_teacher(server, tmp_path / "log", api_key_env="TEACHER_KEY")
    with pytest.raises(VoteError, match=r"teacher 'far' \(openai/x\) refuses") as error:
        far.vote(questions("q"))
    assert len(server.requests) == 1
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)
    assert "check its model, api_base and key" in str(error.value)


@pytest.mark.parametrize("before", range(200, 300, 4))
def test_no_part_of_a_key_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """The message is cut somewhere; wherever that is, the key is out of it."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    far = TeacherConfig(name="far", model="openai/x", api_key_env="TEACHER_KEY")
    refused = RemoteTeacher(far, RuntimeConfig(), log=tmp_path / "log")._refused(
        ValueError("x" * before + KEY)
    )
    assert KEY[:6] not in refused


def test_failing_for_good_keeps_the_votes_there_are(server: Server, tmp_path: Path) -> None:
    def answer(question: str, _asked: int) -> Answer:
        return failure(500, "broken") if "q3" in question else (200, completion("System 1"))

    server.answer = answer
    far = remote_teacher(server, tmp_path / "log", attempts=3)
    with pytest.raises(VoteError, match=r"failed 3 times in a row \(InternalServerError last\)"):
        far.vote(questions("q1", "q2", "q3", "q4", "q5"))
    kept = lines(tmp_path / "log")
    assert {"q1", "q2"} <= set(kept)
    server.answer = lambda _q, _n: (200, completion("System 2"))
    asked = len(server.requests)
    ballots = far.vote(questions("q1", "q2", "q3", "q4", "q5"))
    assert len(server.requests) == asked + 5 - len(kept)
    assert [b.label for b in ballots[:3]] == [1, 1, 2]


def test_votes_in_the_log_are_not_asked_again(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    far = remote_teacher(server, log)
    first = far.vote(questions("q1", "q2"))
    torn = log.read_bytes()
    log.write_bytes(torn + b'{"example_id": "q3", "label"')  # killed while it wrote
    assert set(read_log(log)) == {"q1", "q2"}
    assert far.vote(questions("q1", "q2")) == first
    assert len(server.requests) == 2
    again = far.vote(questions("q1", "q2", "q3"))
    assert len(server.requests) == 3
    assert again[:2] == first
    assert set(read_log(log)) == {"q1", "q2", "q3"}
    assert far.vote(questions("q3", "q1")) == [again[2], again[0]]
    assert len(server.requests) == 3


def test_a_torn_log_is_read_wherever_it_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ballots = [Ballot(f"q{k}", 1 + k % 2, "System é", "m", cost_usd=0.5) for k in range(2)]
    with log.open("a", encoding="utf-8") as file:
        for ballot in ballots:
            append(file, ballot)
    whole = log.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        log.write_bytes(whole[:end])
        held = list(read_log(log).values())
        assert held == ballots[: (end >= first - 1) + (end >= len(whole) - 1)], end
        with log.open("a", encoding="utf-8") as file:
            append(file, Ballot("last", 1, "1", "m"))
        assert "last" in read_log(log)
    assert read_log(tmp_path / "none") == {}


def test_the_key_reaches_the_server_and_no_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    ids = [f"{k:032x}" for k in range(4)]
    columns = {name: ["1"] * 4 for name in ("answer", "reference", "source", "split")}
    prompts = [f"What is {k}?" for k in range(4)]
    write_table(tmp_path / "examples.parquet", {"id": ids, "prompt": prompts, **columns}, EXAMPLES)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    far = teacher(server).model_dump(exclude={"api_base", "api_key_env", "calibration"})
    given = spec(
        "vote",
        {
            "teacher": far,
            "api_host": "",
            "role_play": True,
            "target": "tiny",
            "start": 0,
            "stop": 3,
        },
        {"examples": tmp_path / "examples.parquet"},
        scratch,
        site={"api_base": server.url, "api_key_env": "TEACHER_KEY"},
    )
    vote.run(given, out)
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert read_table(out / "votes.parquet", ["example_id", "label"]) == {
        "example_id": ids[:3],
        "label": [1, 1, 1],
    }
    assert read_table(out / "vote_log.parquet", ["attempts"]) == {"attempts": [1, 1, 1]}
    written = {**files(out), **files(scratch), "spec": given.to_json().encode()}
    assert set(written) == {"votes.parquet", "vote_log.parquet", "votes.jsonl", "spec"}
    assert not [name for name, content in written.items() if KEY.encode() in content]


def test_pauses_grow_to_a_limit() -> None:
    for attempt in range(1, 30):
        full = min(LONGEST_PAUSE_S, 0.5 * 2**attempt)
        assert all(full / 2 <= PAUSE(attempt) <= full for _ in range(20))


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("System 1", 1),
        ("2", 2),
        ("\nsystem2.\n", 2),
        ("System 3", None),
        ("System 1 or System 2", None),
        ("System 1\nSystem 2", None),
        ("The answer is System 1", None),
        ("", None),
        ("12", None),
    ],
)
def test_only_a_bare_label_is_a_vote(reply: str, label: int | None) -> None:
    assert parse_reply(reply) == label
