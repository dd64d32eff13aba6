"""The walls between the folders, and the promise that nothing heavy is loaded before it is needed.

`artifacts` and `lorapar_core` know nothing of each other; `tasks` joins them; `flows` stands on
top; data libraries that take seconds to import stay inside child processes. The first half reads
the source, imports inside functions included; the second half imports for real, in a process of
its own.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
FOLDERS = ("artifacts", "lorapar_core", "tasks", "flows")
HEAVY = frozenset({"torch", "transformers", "trl", "peft", "datasets", "litellm", "bitsandbytes"})
SLOW = (*sorted(HEAVY), "prefect.server")

# folder -> top-level packages that it never imports, at any level
FORBIDDEN = {
    "artifacts": HEAVY | {"prefect", "lorapar_core", "tasks", "flows"},
    "lorapar_core": {"prefect", "artifacts", "tasks", "flows"},
    "tasks": HEAVY | {"flows"},
    "flows": HEAVY,
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) of every import, in functions and type checks too.

    `import_module("x")` and `__import__("x")` count, so that the wall has no back door.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield node.lineno, module
            case ast.ImportFrom():
                yield node.lineno, "<relative>"
            case ast.Call(
                func=ast.Attribute(attr="import_module")
                | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module
            case _:
                pass


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """Return the names in sys.modules after `statement`, run by a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint('loaded:', *sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn as nn", "torch.nn"),
        ("def f():\n    from torch import nn", "torch"),
        ("if TYPE_CHECKING:\n    import torch", "torch"),
        ("import importlib\nimportlib.import_module('torch')", "torch"),
        ("from . import x", "<relative>"),
    ],
)
def test_reader_finds_every_form_of_import(source: str, found: str) -> None:
    assert found in {module for _, module in imports(source)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_stays_behind_its_wall(folder: str) -> None:
    assert modules(folder), f"{folder}/ holds no module"
    breaches = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in modules(folder)
        for line, module in imports(path.read_text(encoding="utf-8"))
        if module.partition(".")[0] in FORBIDDEN[folder] | {"<relative>"}
    ]
    assert not breaches, "\n".join(breaches)


def test_only_the_stage_task_holds_a_store() -> None:
    """Other tasks may name refs and keys; looking up and publishing happen in one place."""
    holding = {
        path.relative_to(ROOT).as_posix()
        for path in modules("tasks")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if "artifacts" in (alias.name, getattr(node, "module", None))
        and alias.name in {"Store", "artifacts", "*"}
    }
    assert holding == {"tasks/stage.py"}


def test_every_third_party_import_is_declared() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = document["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    distributions = packages_distributions()
    undeclared = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for folder in FOLDERS
        for path in modules(folder)
        for line, module in imports(path.read_text(encoding="utf-8"))
        if (top := module.partition(".")[0]) not in {*FOLDERS, *sys.stdlib_module_names}
        and not {canonicalize_name(name) for name in distributions.get(top, [top])} & declared
    ]
    assert not undeclared, "\n".join(undeclared)


def test_composition_loads_nothing_heavy() -> None:
    loaded = loaded_by(
        "import flows.cli, flows.pipeline, tasks.stage, artifacts, lorapar_core.config"
    )
    assert "flows.pipeline" in loaded
    assert not loaded.intersection(SLOW)


def test_the_prefect_flow_loads_nothing_heavy() -> None:
    """`prefect.server` aside, which Prefect's own client imports."""
    loaded = loaded_by("import flows.deployed_sweeps, flows.inspect_store, flows.demo")
    assert "flows.deployed" in loaded
    assert not loaded.intersection(HEAVY)


def test_lorapar_run_needs_no_prefect() -> None:
    """Only `flows.deployed` does: `lorapar run` composes the same stages without the engine."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules("tasks")
    ]
    assert "tasks.stage" in names
    loaded = loaded_by(f"import flows.cli, flows.pipeline, {', '.join(names)}")
    assert "prefect" not in loaded
