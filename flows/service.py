"""`lorapar up`, `down` and `status`: a Prefect server, a process worker, and our deployments.

Server and worker outlive this command; their process numbers and logs stand in the state
directory, and so does the server's database, apart from any other Prefect of the user's. All that
descends from them carries the state directory in its environment, by which `down` finds what a
killed worker left behind. We start the server ourselves and poll its health: `prefect server start
--background` ties its output to a parent that ends.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from artifacts.location import VARIABLE, store_root
from flows.api import LOCAL, Refused, ServiceError, post
from flows.automations import deploy_automations
from flows.places import DEPLOYMENTS, ROOT, state_directory

POOL = "lorapar"
PORT = 4200
MARK = "LORAPAR_SERVICE"
"""Environment variable of all our processes: the state directory they belong to."""
START_S = 180.0
STOP_S = 20.0
RUN_STOP_S = 90.0
"""For a run under way: longer than any `runtime.grace_s`, in which training keeps a checkpoint."""
IDLE_STOP_S = 6.0
"""For a worker or server with nothing left to do: now and then one doesn't end by itself."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of ours, told from a later one with the same number by its environment."""

    name: str
    pid: int
    port: int
    store: str
    """Where its runs keep artifacts."""

    def process(self) -> psutil.Process | None:
        """The running process, or None."""
        try:
            found = psutil.Process(self.pid)
            return found if _is_ours(found) and self.name in found.cmdline() else None
        except psutil.NoSuchProcess:
            return None


def _is_ours(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARK) == str(state_directory())
    except psutil.Error:  # it has ended, or is another user's
        return False


def up(*, port: int, say: Say = print) -> str:
    """Start what isn't running, and deploy; returns the server's URL.

    Raises:
        ServiceError: the port is taken, something doesn't start, or a run is under way in another
            store than this environment's.
    """
    state = state_directory()
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            f"{state} can't be made ({error.strerror}); set LORAPAR_HOME to a folder that can"
        ) from error
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
    deploy_automations(url)
    worker = running("worker")
    if worker and (worker.port, worker.store) != (server.port, str(store_root(None))):
        where = f"the worker uses the store {worker.store} and port {worker.port}"
        if _runs():
            raise ServiceError(
                f"{where}, and a run is under way; wait for it, set {VARIABLE}={worker.store}, or "
                "stop it with `lorapar down`"
            )
        say(f"{where}; it is started anew")
        stop_worker(say=say)
        worker = None
    if worker is None:
        _start_worker(state, url, server.port, say)
    say(f"ready: {url} shows runs; logs in {state}")
    return url


def down(*, say: Say = print) -> int:
    """Stop what `up` started: runs under way, the worker, the server, and what they left behind.

    Runs first, and while the server listens: so they end *Crashed*, and can be retried.
    """
    stop_worker(say=say)
    _stop_daemon("server", say)
    left = [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_ours(p)]
    if left:
        _end(left)
        say(f"processes left behind stopped: {len(left)}")
    return 0


def stop_worker(*, say: Say = print) -> None:
    """Stop the runs under way, and then the worker."""
    server = running("server")
    under_way = _runs()
    if server and under_way:
        _end(under_way, patience=RUN_STOP_S)
        say(f"runs stopped: {len(under_way)}")
        with suppress(ServiceError):  # who stops a run needn't hear how it ended
            _await_reported(f"http://127.0.0.1:{server.port}")
    _stop_daemon("worker", say)


def _stop_daemon(name: str, say: Say) -> None:
    daemon = running(name)
    process = daemon and daemon.process()
    if process:
        with suppress(psutil.NoSuchProcess):
            family = [process, *process.children(recursive=True)]
            _end(family, polite=1, patience=IDLE_STOP_S)
        say(f"stopped the {name}")
    (state_directory() / f"{name}.json").unlink(missing_ok=True)


def _runs() -> list[psutil.Process]:
    """The processes of flow runs under way, a worker's or one that its worker left behind."""
    return [p for p in psutil.process_iter() if _is_ours(p) and "prefect.engine" in _command(p)]


def _await_reported(url: str) -> None:
    """Give the worker time to tell the server how its runs ended."""
    deadline = time.monotonic() + STOP_S
    under_way = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    while time.monotonic() < deadline and post(f"{url}/api/flow_runs/filter", flow_runs=under_way):
        time.sleep(0.25)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _end(
    processes: list[psutil.Process], *, polite: int | None = None, patience: float = STOP_S
) -> None:
    """Ask the first `polite` (or all) to end; kill what is left after `patience` seconds."""
    for process in processes[:polite]:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for left in alive:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    psutil.wait_procs(alive, timeout=STOP_S)


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


def environment(url: str) -> dict[str, str]:
    """What a Prefect process of ours is told."""
    state = state_directory()
    database = state / "prefect.db"
    excepted = [text for name in ("NO_PROXY", "no_proxy") if (text := os.environ.get(name))]
    # "*" counts only where it stands alone.
    direct = "*" if "*" in excepted else ",".join([*excepted, "127.0.0.1", "localhost"])
    return {
        **os.environ,
        MARK: str(state),
        VARIABLE: str(store_root(None)),
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PREFECT_HOME": str(state / "prefect"),  # else it writes to ~/.prefect
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "lorapar",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; deployments/automations.yaml counts
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # by default a run waits up to 10 s for its worker
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


def _start_worker(state: Path, url: str, port: int, say: Say) -> None:
    """Start a worker under a name of its own, and wait until the server knows it.

    Raises:
        ServiceError: it ends, or the server doesn't hear of it.
    """
    say("starting the worker")
    name = f"lorapar-{uuid.uuid4().hex[:8]}"
    command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    worker = _start("worker", command, state, port, environment(url))
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and worker.process():
        known = post(f"{url}/api/work_pools/{POOL}/workers/filter")
        if any(found["name"] == name for found in known):
            return
        time.sleep(0.25)
    log = state / "worker.log"
    raise ServiceError(f"the worker didn't start; {log} ends: {_last_lines(_read(log))}")


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
    daemon = Daemon(name, process.pid, port, variables[VARIABLE])
    (state / f"{name}.json").write_text(json.dumps(asdict(daemon)) + "\n")
    deadline = time.monotonic() + STOP_S
    while process.poll() is None and daemon.process() is None and time.monotonic() < deadline:
        time.sleep(0.01)  # a process that has just started has no environment yet
    return daemon


def _await_health(url: str, server: Daemon) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process() is None:
            break
        try:
            with LOCAL.open(f"{url}/api/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)  # not listening yet
    log = state_directory() / "server.log"
    raise ServiceError(f"the Prefect server didn't start; {log} ends: {_last_lines(_read(log))}")


def _create_pool(url: str) -> None:
    """Make the work pool; the worker fills in its job template."""
    try:
        post(f"{url}/api/work_pools/", name=POOL, type="process")
    except Refused as error:
        if error.status != 409:  # it is there already
            raise


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])
