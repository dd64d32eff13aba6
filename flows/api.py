"""Plain calls of our own server's HTTP interface, for what Prefect's commands can't do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from lorapar_core.errors import LoraparError

LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""No proxy stands between us and loopback."""


class ServiceError(LoraparError):
    """The server or the worker can't be started, or the server doesn't answer."""


class Refused(ServiceError):
    """The server answered that it won't."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def post(url: str, **body: Any) -> Any:
    """The server's answer.

    Raises:
        Refused: it refuses.
        ServiceError: it doesn't answer.
    """
    return _call("POST", url, body)


def put(url: str, **body: Any) -> Any:
    """As `post`."""
    return _call("PUT", url, body)


def _call(method: str, url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with LOCAL.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:200]
        raise Refused(f"the Prefect server refuses {url}: {error} {said}", error.code) from error
    except OSError as error:
        raise ServiceError(f"the Prefect server at {url} doesn't answer: {error}") from error
