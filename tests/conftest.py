"""Fixtures that several folders of tests share, and the path to `tiny`."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
for folder in (TESTS, REPOSITORY):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# Before anybody imports Prefect, which else writes to ~/.prefect.
if "PREFECT_HOME" not in os.environ:
    os.environ["PREFECT_HOME"] = home = tempfile.mkdtemp(prefix="lorapar-tests-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)

from tiny import tiny_model_dir, tiny_tokenizer_dir  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random 2-layer Llama with its tokenizer."""
    return tiny_model_dir(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tokenizer alone, with a chat template."""
    return tiny_tokenizer_dir(tmp_path_factory.mktemp("tiny") / "tokenizer")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    folder = (REPOSITORY / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data sets: {folder} is absent")
    return folder
