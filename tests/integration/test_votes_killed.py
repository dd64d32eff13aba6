"""A process that asks a teacher is killed (-9) at random moments: no vote that counted is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from teacher_server import teacher_server

PROGRAM = Path(__file__).parents[1] / "kills" / "killed_votes.py"
CONCURRENCY = 16


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_loses_no_vote_and_buys_none_twice(kills: int, tmp_path: Path) -> None:
    count = 30 * kills
    with teacher_server(latency_s=0.05) as server:
        command = [PROGRAM, server.url, tmp_path / "ledger", count, kills, 0]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *map(str, command)],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen = server.seen()
    told: dict[str, Any] = json.loads(done.stdout)
    print(told, seen["seen"])
    assert told["kills"] == kills
    assert told["lost"] == 0
    assert told["votes"] == count
    # Asked again is only what was on its way when its process died.
    assert seen["seen"]["requests"] - count <= CONCURRENCY * kills
    assert seen["most_asked"] <= 1 + kills
    assert told["requests"] - told["under_way_at_a_kill"] - count <= kills  # told, and not yet kept
