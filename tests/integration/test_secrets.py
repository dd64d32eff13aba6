"""Canary keys in the environment and in headers: found in nothing that is written.

The teacher's server is the worst there is: it puts every key it gets into its replies and errors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from own_service import Service, wait_for
from teacher_server import teacher_server
from tiny_recipe import write_tiny_recipe
from voting_only import remote, vote_only, voting_recipe

from flows.service import free_port
from lorapar_core.errors import VoteError

pytestmark = pytest.mark.filterwarnings("ignore:Logger 'lorapar:UserWarning")
KEY, HEADER = "sk-canary-key-4711", 'canary "header" 0815'
CANARIES = ("canary-key", "key-4711", "canary \\", 'canary "', 'er" 0815')
VARIABLES = {"CANARY_KEY": KEY, "CANARY_HEADER": HEADER}
KEYED = {"api_key_env": "CANARY_KEY", "header_envs": {"X-Canary": "CANARY_HEADER"}}
FAULTS = {"off_schema": 0.5, "500": 0.1}


def finds(root: Path) -> list[str]:
    """Files that hold a canary, the server's own database among those looked at."""
    return [
        f"{path.relative_to(root)}: {canary}"
        for path in root.rglob("*")
        if path.is_file()
        for canary in CANARIES
        if canary.encode() in path.read_bytes()
    ]


def test_a_run_writes_and_says_no_key(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    caplog.set_level(logging.DEBUG)
    with teacher_server(faults=FAULTS, echo_secrets=True) as server:
        teacher = remote("far", server.url, **KEYED)
        vote_only(voting_recipe(tiny_model, [teacher]), tmp_path / "store", say=said.append)
        assert server.seen()["keys"] == [f"Bearer {KEY}"]
        assert server.seen()["headers"] == [HEADER]
    with teacher_server(faults={"401": 1.0}, echo_secrets=True) as server:
        teacher = remote("other", server.url, **KEYED)
        with pytest.raises(VoteError, match="refuses") as refused:
            vote_only(voting_recipe(tiny_model, [teacher]), tmp_path / "store", say=said.append)
    told = "\n".join([*said, caplog.text, str(refused.value), repr(refused.value.__context__)])
    assert "***" in str(refused.value)
    assert [canary for canary in CANARIES if canary in told] == []
    assert finds(tmp_path / "store") == []


@dataclass(frozen=True)
class _WithKeys(Service):
    """Its worker has the canaries in its environment."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **VARIABLES}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = _WithKeys(tmp_path / "home", free_port())
    made.home.mkdir()
    yield made
    made.lorapar("down")
    for process in made.processes():
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_prefects_database_and_logs_hold_no_key(
    service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    assert service.lorapar("up", "--port", str(service.port)).returncode == 0
    endings: list[tuple[str, dict[str, Any]]] = [
        ("votes", {"faults": FAULTS}),
        ("refused", {"faults": {"401": 1.0}}),
    ]
    for name, told in endings:
        with teacher_server(echo_secrets=True, reply="System 1", **told) as server:
            teachers = [remote(name, server.url, **KEYED)]
            recipe = write_tiny_recipe(
                tmp_path / f"{name}.yaml", tiny_model, teachers=teachers, voting={"tie": "drop"}
            )
            started = service.prefect("deployment", "run", "lorapar/full", "-p", f"recipe={recipe}")
            assert started.returncode == 0, started.stderr
            wait_for(lambda: service.flow_run()["state_type"] == "FAILED", seconds=120)
            assert server.seen()["keys"] == [f"Bearer {KEY}"]
    run = json.dumps(service.flow_run())
    assert "refuses" in run
    assert "***" in run
    service.lorapar("down")
    databases = list(service.home.rglob("*.db"))
    assert databases
    assert finds(service.home) == []
