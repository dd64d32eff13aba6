"""What srun is on a cluster, on this machine: `two_nodes.py --nodes=0,1 COMMAND …`.

Starts the command once for each number, as NODE_RANK, copies stdin to all, and passes their lines
on, beside words of its own. Ends when all have ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO

_one_line_at_a_time = threading.Lock()


def main(numbers: list[str], command: list[str]) -> int:
    print("two nodes: granted", flush=True)
    nodes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "NODE_RANK": number},
        )
        for number in numbers
    ]
    readers = [threading.Thread(target=_pass_on, args=(node.stdout,)) for node in nodes]
    for reader in readers:
        reader.start()
    threading.Thread(target=_copy, args=(nodes,), daemon=True).start()
    for reader in readers:
        reader.join()
    return max(node.wait() for node in nodes)


def _pass_on(stream: IO[bytes]) -> None:
    for line in stream:
        with _one_line_at_a_time, suppress(BrokenPipeError):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def _copy(nodes: list[subprocess.Popen[bytes]]) -> None:
    while chunk := os.read(0, 65536):
        for node in nodes:
            assert node.stdin
            with suppress(BrokenPipeError):
                node.stdin.write(chunk)
                node.stdin.flush()
    for node in nodes:
        assert node.stdin
        with suppress(BrokenPipeError):
            node.stdin.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].removeprefix("--nodes=").split(","), sys.argv[2:]))
