"""`make demo`: the whole pipeline through a real Prefect server and worker, then all stopped.

It uses the state directory of `lorapar up`, so that the UI shows the demo's runs afterwards too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from artifacts import Store, StoreError
from flows import service
from flows.places import ROOT, state_directory
from flows.summary import accuracy_table, stage_table
from lorapar_core.errors import LoraparError


def main() -> int:
    """Run the demo; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    started = time.monotonic()
    own = service.running("server") is None
    try:
        store = Store.open()
        daemon = service.running("server")
        port = daemon.port if daemon else _port()
        service.up(port=port)
        before = {name for name, _ in store.runs()}
        code = _run(f"http://127.0.0.1:{port}")
        new = [document for name, document in store.runs() if name not in before]
    except (LoraparError, StoreError) as error:
        print(f"lorapar: {error}", file=sys.stderr)
        return 1
    finally:
        if own:
            service.down()
    if code or not new:
        log = state_directory() / "worker.log"
        print(f"lorapar: the demo failed; {log} says why", file=sys.stderr)
        return code or 1
    summary = new[0]
    print(f"\n{stage_table(summary)}\n\n{accuracy_table(summary)}\n")
    print(f"report   {summary['report']}")
    print(f"adapter  {summary['adapter']}")
    print("UI       .venv/bin/lorapar up, then open http://127.0.0.1:4200")
    print(f"\nthe demo took {time.monotonic() - started:.0f} s")
    return 0


def _port() -> int:
    """The port that the UI is known by, or any free one where that is taken."""
    import socket

    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", service.PORT)) == 0
    return service.free_port() if taken else service.PORT


def _run(url: str) -> int:
    command = service.prefect("deployment", "run", "lorapar/demo", "--watch")
    return subprocess.run(command, cwd=ROOT, env=service.environment(url), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
