"""`make demo`: the whole pipeline through a real Prefect server and worker, then all stopped.

It uses the state directory of `lorapar up`, so that the UI shows the demo's runs afterwards too.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from artifacts import Store, StoreError
from flows import service
from flows.api import ServiceError, post
from flows.places import ROOT, state_directory
from flows.summary import accuracy_table, stage_table
from lorapar_core.errors import LoraparError, StageFailed


def main() -> int:
    """Run the demo; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # into a file too, our lines in Prefect's order
        sys.stdout.reconfigure(line_buffering=True)
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that what was started is stopped
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    started = time.monotonic()
    server, worker = service.running("server"), service.running("worker")
    port = server.port if server else _port()
    url = f"http://127.0.0.1:{port}"
    tag = f"demo-{uuid.uuid4().hex}"  # by which the run is found again
    summary = None
    try:
        store = Store.open()
        service.up(port=port)
        summary = _run(url, tag, store)
    except (LoraparError, StoreError) as error:
        print(f"lorapar: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lorapar: stopped; what is finished is kept", file=sys.stderr)
        return 130
    finally:
        if server is None:
            service.down()
        elif worker is None:
            service.stop_worker()
        elif summary is None:
            _cancel(url, tag)
    print(f"\n{stage_table(summary)}\n\n{accuracy_table(summary)}\n")
    print(f"report   {summary['report']}")
    print(f"adapter  {summary['adapter']}")
    elsewhere = "" if port == service.PORT else f" --port {port}"
    print(f"UI       .venv/bin/lorapar up{elsewhere}, then open {url}")
    print(f"\nthe demo took {time.monotonic() - started:.0f} s")
    return 0


def _port() -> int:
    """The port that the UI is known by, or any free one where that is taken."""
    import socket

    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", service.PORT)) == 0
    return service.free_port() if taken else service.PORT


def _run(url: str, tag: str, store: Store) -> Mapping[str, Any]:
    """Run the deployment; returns the summary that the flow left in the store.

    Raises:
        StageFailed: the flow didn't end well.
    """
    command = service.prefect("deployment", "run", "lorapar/demo", "--watch", "--tag", tag)
    subprocess.run(command, cwd=ROOT, env=service.environment(url), check=False)
    completed = [run["id"] for run in _runs(url, tag) if run["state_type"] == "COMPLETED"]
    summaries = [document for name, document in store.runs() if name in completed]
    if not summaries:
        raise StageFailed(f"the demo failed; {state_directory() / 'worker.log'} says why")
    return summaries[0]


def _runs(url: str, tag: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = post(
        f"{url}/api/flow_runs/filter", flow_runs={"tags": {"all_": [tag]}}
    )
    return found


def _cancel(url: str, tag: str) -> None:
    """Have a worker that isn't ours end the run that nobody waits for any more."""
    with suppress(ServiceError):  # why the demo ends is said already
        _cancel_all(url, _runs(url, tag))


def _cancel_all(url: str, runs: list[dict[str, Any]]) -> None:
    for run in runs:
        if run["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"):
            post(f"{url}/api/flow_runs/{run['id']}/set_state", state={"type": "CANCELLING"})


if __name__ == "__main__":
    sys.exit(main())
