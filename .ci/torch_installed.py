"""Succeed if this environment holds a whole torch in the range that pyproject.toml names.

`make setup` asks before it installs torch, so that a build that is already there (CUDA, ROCm, a
container's own) is kept. Only pip's vendored packaging is imported: the environment may be new.
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def tested_range(pyproject: Path) -> Requirement:
    """Return the requirement on torch that the project's metadata names."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(line) for line in project["dependencies"]]
    return next(requirement for requirement in requirements if requirement.name == "torch")


def main() -> int:
    """Return 0 to keep the installed torch, 1 if one has to be installed."""
    torch = tested_range(Path(__file__).parent.parent / "pyproject.toml")
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return 1
    if torch.specifier.contains(version, prereleases=True):
        print(f"setup: keeping torch {version}")
        return 0
    print(f"setup: torch {version} is outside the tested range {torch.specifier}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
