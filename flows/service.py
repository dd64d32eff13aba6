"""`lorapar up`, `down` and `status`: a Prefect server, a process worker, and our deployments.

Server and worker outlive this command; their process numbers and logs stand in the state
directory, and so does the server's database, apart from any other Prefect of the user's. We start
the server ourselves and poll its health: `prefect server start --background` ties its output to a
parent that ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.places import DEPLOYMENTS, ROOT, state_directory
from lorapar_core.errors import LoraparError

POOL = "lorapar"
PORT = 4200
START_S = 180.0
STOP_S = 20.0
Say = Callable[[str], None]


class ServiceError(LoraparError):
    """The server or the worker can't be started."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of ours, told from a later one with the same number by when it began."""

    name: str
    pid: int
    created: float
    port: int

    def process(self) -> psutil.Process | None:
        """The running process, or None."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < 1
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def up(*, port: int, say: Say = print) -> int:
    """Start what isn't running, and deploy.

    Raises:
        ServiceError: the port is taken, or something doesn't start.
    """
    state = state_directory()
    state.mkdir(parents=True, exist_ok=True)
    server = running("server")
    if server is None:
        server = _start_server(state, port, say)
    elif server.port != port:
        say(f"the server is already running on port {server.port}")
    url = f"http://127.0.0.1:{server.port}"
    _await_health(url, server)
    _create_pool(url)
    say("deploying")
    deploy(url)
    if running("worker") is None:
        say("starting the worker")
        command = ["worker", "start", "--pool", POOL, "--type", "process"]
        _start("worker", command, state, server.port, environment(url))
    say(f"ready: {url} shows runs; logs in {state}")
    # In this folder Prefect takes port 4200 from pyproject.toml.
    elsewhere = "" if server.port == PORT else f"PREFECT_API_URL={url}/api "
    say(f"next:  {elsewhere}prefect deployment run lorapar/demo --watch      (in this folder)")
    return 0


def down(*, say: Say = print) -> int:
    """Stop what `up` started: the worker with its runs, then the server."""
    for name in ("worker", "server"):
        daemon = running(name)
        if daemon:
            stop(daemon)
            say(f"stopped the {name}")
        (state_directory() / f"{name}.json").unlink(missing_ok=True)
    return 0


def status(*, say: Say = print) -> int:
    """Say what runs; exit code 3 if not all does."""
    daemons = {name: running(name) for name in ("server", "worker")}
    for name, daemon in daemons.items():
        where = f"running, pid {daemon.pid}" if daemon else "not running"
        url = f", http://127.0.0.1:{daemon.port}" if daemon and name == "server" else ""
        say(f"{name}: {where}{url}")
    return 0 if all(daemons.values()) else 3


def running(name: str) -> Daemon | None:
    """The daemon as last started, if it still runs."""
    file = state_directory() / f"{name}.json"
    try:
        daemon = Daemon(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return daemon if daemon.process() else None


def stop(daemon: Daemon) -> None:
    """End a daemon and everything it started, politely first."""
    process = daemon.process()
    if process is None:
        return
    family = [*process.children(recursive=True), process]
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=STOP_S)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=STOP_S)


def environment(url: str) -> dict[str, str]:
    """What a Prefect process of ours is told."""
    database = state_directory() / "prefect.db"
    return {
        **os.environ,
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "lorapar",
        "PREFECT_CLI_PROMPT": "false",
    }


def prefect(*arguments: str) -> list[str]:
    """The command line of this environment's Prefect."""
    return [sys.executable, "-m", "prefect", *arguments]


def deploy(url: str) -> None:
    """Bring the server's deployments in line with deployments/prefect.yaml.

    Raises:
        ServiceError: Prefect refuses.
    """
    command = prefect("deploy", "--prefect-file", str(DEPLOYMENTS / "prefect.yaml"), "--all")
    done = subprocess.run(
        command, cwd=ROOT, env=environment(url), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServiceError(f"deploying failed: {_last_lines(done.stdout + done.stderr)}")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_server(state: Path, port: int, say: Say) -> Daemon:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ServiceError(
                f"port {port} is taken by another program; stop it, or use `lorapar up --port N`"
            )
    say(f"starting the Prefect server on port {port}")
    url = f"http://127.0.0.1:{port}"
    command = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return _start("server", command, state, port, environment(url))


def _start(
    name: str, command: list[str], state: Path, port: int, variables: Mapping[str, str]
) -> Daemon:
    with (state / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            prefect(*command),
            cwd=ROOT,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    daemon = Daemon(name, process.pid, psutil.Process(process.pid).create_time(), port)
    fields = {"name": name, "pid": daemon.pid, "created": daemon.created, "port": port}
    (state / f"{name}.json").write_text(json.dumps(fields) + "\n")
    return daemon


def _await_health(url: str, server: Daemon) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process() is None:
            break
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)  # not listening yet
    log = state_directory() / "server.log"
    raise ServiceError(f"the Prefect server didn't start; {log} ends: {_last_lines(_read(log))}")


def _create_pool(url: str) -> None:
    """Make the work pool; the worker fills in its job template."""
    try:
        _post(f"{url}/api/work_pools/", {"name": POOL, "type": "process"})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is there already
            raise ServiceError(f"work pool {POOL!r} can't be made: {error}") from error


def _post(url: str, body: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30):
        return


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])
