"""How a benchmark prints: one JSON line a figure, after one that tells the machine."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version

from lorapar_core.surroundings import processor


def machine(*, threads: int) -> None:
    """Print what the figures were measured on."""
    told = {
        "machine": processor(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        **{library: version(library) for library in ("numpy", "torch", "transformers", "peft")},
    }
    print(json.dumps(told), flush=True)


def figure(name: str, value: float, unit: str) -> None:
    """Print one figure, to four significant digits."""
    print(json.dumps({"name": name, "value": float(f"{value:.4g}"), "unit": unit}), flush=True)
