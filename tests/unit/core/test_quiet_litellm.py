"""litellm is imported where votes are asked, and there it neither phones home nor reads `.env`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_its_import_opens_no_connection_and_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FROM_A_FILE=1\n")
    program = """
import os, socket

def refuse(*_):
    raise AssertionError("a connection at import")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from lorapar_core.teachers.remote import quiet_litellm
litellm = quiet_litellm()
print(len(litellm.model_cost) > 1000, "FROM_A_FILE" in os.environ, litellm.callbacks)
"""
    assert run(program, tmp_path) == "True False []"


def test_nothing_but_asking_imports_it(tmp_path: Path) -> None:
    program = """
import sys
import flows.cli, flows.plan, flows.purchases, flows.voting, lorapar_core.vote
from lorapar_core.teachers import asking, prices, remote, replay
assert prices._listed("openai/gpt-4o-mini")
print([name for name in ("litellm", "openai", "torch", "prefect") if name in sys.modules])
"""
    assert run(program, tmp_path) == "[]"
