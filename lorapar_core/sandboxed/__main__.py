"""Close the sandbox, say so, and be the program or its tests.

Run as a file by an interpreter that sees the standard library alone. The job comes on stdin;
"ready" goes to stdout, and what goes wrong before it to stderr. Both are closed then, before
anything is run, and nothing that is said later goes anywhere.
"""

from __future__ import annotations

import json
import os
import random
import sys


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(_folder())))  # noqa: PTH120 - it takes 10 ms
    from lorapar_core.sandboxed import closing, program, tests
    from lorapar_core.sandboxed.channel import Channel

    del sys.path[0]
    for name in [name for name in sys.modules if name.split(".")[0] == "lorapar_core"]:
        del sys.modules[name]  # what the model wrote has the standard library, and nothing of ours
    job = json.load(sys.stdin)
    nowhere = os.open(os.devnull, os.O_RDWR)
    sys.tracebacklimit = 0  # the reason is one line
    closing.close(job)
    del sys.tracebacklimit
    os.write(1, b"ready")
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    random.seed(0)
    channel = Channel(job["reads"], job["writes"], most=job["limits"]["message"])
    if job["role"] == "program":
        program.serve(job["program"], channel)
    else:
        tests.hold(job, channel)
        os.write(job["verdict"], job["proof"].encode())
    os._exit(0)  # whatever was left behind doesn't run


def _folder() -> str:
    return os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120


if __name__ == "__main__":
    main()
