"""A stage's peak of memory: its own, also in a process that has had larger stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorapar_core import footprint
from lorapar_core.footprint import Footprint

MIB = 2**20
LARGE_THEN_SMALL = """
from lorapar_core.footprint import Footprint
first = Footprint()
held = bytearray(b"x" * (200 * 2**20))
large = first.figures()["peak_bytes"]
del held
second = Footprint()
held = bytearray(b"x" * (20 * 2**20))
print(large, second.figures()["peak_bytes"])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone counts anew")
def test_a_small_stage_after_a_large_one_has_its_own_peak() -> None:
    command = [sys.executable, "-c", LARGE_THEN_SMALL]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    large, small = map(int, told.split())
    assert large > 200 * MIB
    assert 20 * MIB < small < large - 100 * MIB


def test_where_no_peak_can_be_counted_anew_only_a_raised_one_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(footprint, "_PROCESS", tmp_path / "nowhere")
    peaks = iter([500, 500, 500, 700])
    monkeypatch.setattr(footprint, "_peak_bytes", lambda: next(peaks))
    assert Footprint().figures() == {}
    assert Footprint().figures() == {"peak_bytes": 700}


def test_without_proc_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(footprint, "_PROCESS", tmp_path / "nowhere")
    assert footprint._peak_bytes() > 5 * MIB
