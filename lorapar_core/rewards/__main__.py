"""`python -m lorapar_core.rewards PATH...`: whether these rewards can be imported.

Apart from the process that asks, and as a stage's process will import them: from the same folder,
with the same PYTHONPATH. The last line of its output is what is wrong, or `IMPORTABLE`: a module
may end the process with status 0.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

from lorapar_core.errors import ConfigError
from lorapar_core.rewards.check import IMPORTABLE
from lorapar_core.rewards.registry import imported


def main(paths: list[str]) -> int:
    try:
        with redirect_stdout(sys.stderr):  # what the modules print is no answer of ours
            for path in paths:
                imported(path)
    except ConfigError as error:
        print(error)
        return 1
    print(IMPORTABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
