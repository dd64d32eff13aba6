"""An OpenAI-compatible server on loopback, in a process of its own, that fails as told.

    python teacher_server.py '{"latency_s": 0.1, "faults": {"429": 0.1}}'

prints its port. A question's vote depends on its words (`expected_vote`) and, with `disagree`, on
the model that is asked. Faults are drawn by
request: `429` (every second one with Retry-After), `500`, `hang`, `html`, `empty` (no choices),
`off_schema`. `gone` closes the port after so many requests, for so many seconds. GET /seen tells
what was received; `echo_secrets` puts the Authorization header into replies and errors.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HANG_S = 3600.0
PAGE = b"<html><body>502 Bad Gateway</body></html>"


def expected_vote(question: str, model: str = "", *, disagree: float = 0.0) -> int:
    """1 or 2, by the words; a share `disagree` of a model's votes is turned round."""
    drawn = hashlib.sha256(f"{model}:{question}".encode()).digest()[0] / 256
    return 1 + (hashlib.sha256(question.encode()).digest()[0] + (drawn < disagree)) % 2


class _Teacher:
    def __init__(self, told: Mapping[str, Any]) -> None:
        self.latency_s = told.get("latency_s", 0.0)
        self.faults = told.get("faults", {})
        self.retry_after_s = told.get("retry_after_s", 1)
        self.gone = told.get("gone")  # [after so many requests, for so many seconds]
        self.limit_per_s = told.get("limit_per_s", 0)
        self.reply = told.get("reply")
        self.disagree = told.get("disagree", 0.0)
        self.fill = told.get("fill", 0)
        self.echo_secrets = told.get("echo_secrets", False)
        self.usage = told.get("usage", {"prompt_tokens": 300, "completion_tokens": 8})
        self.draw = random.Random(told.get("seed", 0))
        self.seen: Counter[str] = Counter()
        self.questions: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.headers: set[str] = set()
        self.most_at_once = 0
        self.at_once = 0
        self._window: list[float] = []
        self._connections: set[Any] = set()
        self._server: asyncio.Server | None = None
        self._going: asyncio.Task[None] | None = None
        self._port = 0

    async def serve(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        self._port = self._server.sockets[0].getsockname()[1]
        print(self._port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until told to end

    async def _connected(self, reader: Any, writer: Any) -> None:
        self._connections.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        self._connections.discard(writer)
        writer.close()

    async def _answer(self, head: bytes, reader: Any, writer: Any) -> None:
        fields = {
            name.lower(): value
            for name, value in (
                line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
            )
        }
        body = await reader.readexactly(int(fields.get(b"content-length", 0)))
        if head.startswith(b"GET"):
            told = {
                "seen": self.seen,
                "questions": len(self.questions),
                "most_asked": max(self.questions.values(), default=0),
                "most_at_once": self.most_at_once,
                "keys": sorted(self.keys),
                "headers": sorted(self.headers),
            }
            await _send(writer, 200, json.dumps(told).encode())
            return
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._complete(json.loads(body), fields, writer)
        finally:
            self.at_once -= 1

    async def _complete(self, request: Any, fields: Any, writer: Any) -> None:
        self.seen["requests"] += 1
        self.keys.add(fields.get(b"authorization", b"").decode())
        self.headers.add(fields.get(b"x-canary", b"").decode())
        question = request["messages"][0]["content"]
        if self.gone and self.seen["requests"] == self.gone[0]:
            self._going = asyncio.create_task(self._go_away(self.gone[1]))
        await asyncio.sleep(self.latency_s)
        fault = self._fault()
        self.seen[fault or "voted"] += 1
        if fault == "hang":
            await asyncio.sleep(HANG_S)
        key = " ".join(fields.get(name, b"").decode() for name in (b"authorization", b"x-canary"))
        said = f"no luck {key}" if self.echo_secrets else "no luck"
        error = json.dumps({"error": {"message": said, "type": "x", "code": "x"}}).encode()
        if fault == "429":
            hint = self.seen["429"] % 2
            more = f"Retry-After: {self.retry_after_s}\r\n" if hint else ""
            await _send(writer, 429, error, more=more)
        elif fault in ("500", "401", "400"):
            await _send(writer, int(fault), error)
        elif fault == "html":
            await _send(writer, 200, PAGE, kind="text/html")
        else:
            self.questions[question] += 1
            vote = expected_vote(question, request["model"], disagree=self.disagree)
            text = self.reply or f"System {vote}"
            if fault == "off_schema":
                text = f"Hard to say; perhaps both. {key if self.echo_secrets else ''}"
            text += "x" * self.fill
            await _send(writer, 200, self._completion(text, empty=fault == "empty"))

    def _fault(self) -> str:
        if self.limit_per_s:
            now = asyncio.get_running_loop().time()
            self._window = [at for at in self._window if at > now - 1]
            if len(self._window) >= self.limit_per_s:
                return "429"
            self._window.append(now)
        drawn = self.draw.random()
        for fault, share in self.faults.items():
            drawn -= share
            if drawn < 0:
                return str(fault)
        return ""

    def _completion(self, text: str, *, empty: bool) -> bytes:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {**self.usage, "total_tokens": sum(self.usage.values())}
        return json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "served-model-7",
                "choices": [] if empty else [choice],
                "usage": usage,
            }
        ).encode()

    async def _go_away(self, seconds: float) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.transport.abort()
        await asyncio.sleep(seconds)
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self._port, backlog=512
        )


async def _send(
    writer: Any, status: int, body: bytes, *, kind: str = "application/json", more: str = ""
) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()


class Running:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}/v1"

    def seen(self) -> dict[str, Any]:
        """What it has received: `seen` (by outcome), `questions`, `most_asked`, `most_at_once`."""
        with urllib.request.urlopen(f"{self.url}/seen") as reply:
            told: dict[str, Any] = json.load(reply)
        return told


@contextmanager
def teacher_server(**told: Any) -> Iterator[Running]:
    """A server as `told`, gone with the context."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Running(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(_Teacher(json.loads(sys.argv[1])).serve())
