"""What a process that computes is told of threads and GPUs."""

from __future__ import annotations

import os

import pytest

from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ConfigError
from lorapar_core.process import device, environment, thread_count


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
