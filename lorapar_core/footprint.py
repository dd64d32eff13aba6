"""What a stage takes of the machine: the peak of its process's memory, and of its GPU's.

Linux counts a process's peak from when we say so; elsewhere it counts from the process's start, and
a resident child has had other stages before: then a peak is told only if this stage raised it.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")


class Footprint:
    """Counts from now on."""

    def __init__(self) -> None:
        self._anew = _counts_anew()
        self._before = _peak_bytes()
        if (gpu := _gpu()) is not None:
            gpu.reset_peak_memory_stats()

    def figures(self) -> dict[str, float | str]:
        """`peak_bytes` of memory, and where a GPU was used `peak_gpu_bytes` and its name."""
        figures: dict[str, float | str] = {}
        peak = _peak_bytes()
        if self._anew or peak > self._before:
            figures["peak_bytes"] = peak
        gpu = _gpu()
        if gpu is not None and (used := gpu.max_memory_reserved()):
            figures |= {"peak_gpu_bytes": used, "gpu": gpu.get_device_name()}
        return figures


def _counts_anew() -> bool:
    """Have the kernel count the peak from now on; False where it can't."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5\n")
        return True
    return False


def _peak_bytes() -> int:
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gpu() -> Any:
    """torch's CUDA, if this process has it in use."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_available() and cuda.is_initialized() else None
