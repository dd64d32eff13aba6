"""What the last bits of a training step depend on beside its data: device, threads, libraries.

Another number of threads adds in another order, another processor takes other instructions, another
release other kernels. A checkpoint tells in which surroundings it was made, and a stage goes on
from it in the same only, unless it is told that equal bytes don't matter.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lorapar_core import ranks
from lorapar_core.checkpoints import Checkpoint
from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import TrainingError
from lorapar_core.process import device, thread_count

LIBRARIES = ("accelerate", "bitsandbytes", "numpy", "peft", "torch", "transformers", "trl", "vllm")

Surroundings = Mapping[str, str | int]


def surroundings(runtime: RuntimeConfig) -> Surroundings:
    """This process's."""
    return {
        "device": _device(device(runtime)),
        "threads": thread_count(runtime),
        "processes": ranks.world(),
        "nodes": runtime.nodes,
        "sharding": runtime.sharding,
        "python": platform.python_version(),
        **{name: found for name in LIBRARIES if (found := installed_version(name))},
    }


def _device(name: str) -> str:
    import torch

    if name == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    if name == "cpu":
        return f"CPU {processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return name


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed_version(library: str) -> str | None:
    """None if it isn't installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def difference(made: Surroundings, here: Surroundings) -> dict[str, list[str]]:
    """Name -> what stands on each side, of what isn't the same."""
    names = sorted({*made, *here})
    pairs = {name: [str(made.get(name, "none")), str(here.get(name, "none"))] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def require_same(checkpoint: Checkpoint, here: Surroundings, *, inexact: bool) -> None:
    """Refuse to go on where the bytes would come out otherwise.

    Raises:
        TrainingError: the surroundings differ, and `inexact` doesn't allow it.
    """
    differs = difference(checkpoint.surroundings, here)
    if not differs or inexact:
        return
    made, ours = (
        ", ".join(f"{name} {pair[side]}" for name, pair in differs.items()) for side in (0, 1)
    )
    raise TrainingError(
        f"the checkpoint of step {checkpoint.step} was made with {made}, and this process has "
        f"{ours}: going on would end with other bytes. Run it where it began, or set "
        "runtime.resume: inexact"
    )
