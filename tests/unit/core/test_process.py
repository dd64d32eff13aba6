"""What a process that computes is told of threads and GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ConfigError
from lorapar_core.process import _glibc, device, environment, thread_count


@pytest.mark.parametrize(
    ("wanted", "visible", "seen"),
    [
        ("auto", None, "0"),
        ("cuda:1", None, "1"),
        ("auto", "3,5", "3"),
        ("cuda:1", "3,5", "5"),
        ("cuda", "GPU-1a2b", "GPU-1a2b"),
    ],
)
def test_a_process_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, wanted: str, visible: str | None, seen: str
) -> None:
    """trl refuses to train where it sees several."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment(RuntimeConfig(device=wanted))["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(("wanted", "visible"), [("cpu", "0,1"), ("auto", "")])
def test_a_process_on_the_cpu_is_told_of_none(
    monkeypatch: pytest.MonkeyPatch, wanted: str, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "CUDA_VISIBLE_DEVICES" not in environment(RuntimeConfig(device=wanted))


def test_a_gpu_that_is_hidden_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match=r"'cuda:1', and CUDA_VISIBLE_DEVICES='3' shows 1 GPUs"):
        environment(RuntimeConfig(device="cuda:1"))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device(RuntimeConfig(device="auto")) == "cpu"
    with pytest.raises(ConfigError, match=r"'cuda', and torch .* sees no such GPU"):
        device(RuntimeConfig(device="cuda"))


def test_threads_are_all_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count(RuntimeConfig(threads=3)) == 3
    assert thread_count(RuntimeConfig()) >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert thread_count(RuntimeConfig()) == (os.cpu_count() or 1)


def test_what_the_user_tells_the_allocator_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert "GLIBC_TUNABLES" not in environment(RuntimeConfig())


@pytest.mark.parametrize(("version", "told"), [("glibc 2.34", False), ("glibc 2.35", True)])
def test_an_old_allocator_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, version: str, told: bool
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "confstr_names", {"CS_GNU_LIBC_VERSION": 2})
    monkeypatch.setattr(os, "confstr", lambda _: version)
    assert ("GLIBC_TUNABLES" in environment(RuntimeConfig())) is told
    monkeypatch.setattr(os, "confstr_names", {})  # as on macOS
    assert "GLIBC_TUNABLES" not in environment(RuntimeConfig())


MEMORY = """
import json, psutil
from lorapar_core.process import give_back_memory

def resident_mib():
    return psutil.Process().memory_info().rss / 2**20

before = resident_mib()
blocks = [bytearray(b"x") * (1 << 20) for _ in range(200)]
last = bytearray(1)
del blocks
kept = resident_mib()
give_back_memory()
print(json.dumps([before, kept, resident_mib()]))
"""


@pytest.mark.skipif(_glibc() < (2, 35), reason="a setting of glibc 2.35 and later")
def test_a_process_keeps_freed_blocks_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    told = {**os.environ, **environment(RuntimeConfig(device="cpu"))}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], env=told, capture_output=True, check=True, timeout=60
    )
    before, kept, after = json.loads(done.stdout)
    assert kept - before > 190
    assert after - before < 20
