"""`python -m lorapar_core STAGE SPEC.json OUTDIR`: run one stage, with no Prefect and no store.

`python -m lorapar_core --serve PID` runs stages for the process PID, its parent
(`lorapar_core.child`). `python -m lorapar_core --node` is one of several nodes that train together
(`lorapar_core.node`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorapar_core.spec import Spec


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--serve"] and len(arguments) == 2:
        from lorapar_core.child import serve

        return serve(parent=int(arguments[1]))
    if arguments == ["--node"]:
        from lorapar_core.node import serve as serve_node

        return serve_node()
    if len(arguments) != 3:
        print("usage: python -m lorapar_core STAGE SPEC.json OUTDIR", file=sys.stderr)
        return 2
    return _run_once(arguments[0], Path(arguments[1]), Path(arguments[2]))


def _read(spec_file: Path) -> Spec:
    from lorapar_core.errors import ConfigError
    from lorapar_core.spec import Spec

    try:
        return Spec.from_json(spec_file.read_text())
    except OSError as error:
        raise ConfigError(f"{spec_file} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{spec_file} is no spec of a stage ({reason})") from error


def _run_once(name: str, spec_file: Path, out: Path) -> int:
    from dataclasses import replace

    from lorapar_core.errors import LoraparError
    from lorapar_core.process import environment, quiet_libraries, reset
    from lorapar_core.stages import stage

    try:
        spec = replace(_read(spec_file), stage=name)
        os.environ.update(environment(spec.runtime))
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            print(f"lorapar: {out} is not empty; give a new directory", file=sys.stderr)
            return 2
        quiet_libraries()
        reset(spec.runtime)
        stage(name).run(spec, out)
    except LoraparError as error:
        print(f"lorapar: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
