"""The state of a process that runs stages: environment, thread counts, seeds.

A stage must give the same bytes in a fresh process and in one that ran others before it, so every
stage starts from `reset`: seeds, grad mode, default dtype and thread counts as a new process has
them. Stages seed what they draw themselves; the seed here only makes an oversight repeatable.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
from pathlib import Path

from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ConfigError

_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
}

# glibc gives large freed blocks back to the system and takes them anew, and each fresh page costs
# a fault.
_KEEP_FREED_BLOCKS = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=68719476736"
)
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""Of Nvidia, of Windows below Linux, of AMD."""
_OLDEST_GLIBC = (2, 35)
"""Of those that take so high a threshold."""


def thread_count(runtime: RuntimeConfig) -> int:
    """CPU threads that a heavy process uses: as told, else every core it may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return runtime.threads or len(os.sched_getaffinity(0))
    return runtime.threads or os.cpu_count() or 1


def environment(runtime: RuntimeConfig) -> dict[str, str]:
    """Variables that must stand before a heavy library is imported."""
    threads = str(thread_count(runtime))
    return {
        **_ENVIRONMENT,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Without it cuBLAS sums in an order that differs from run to run.
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        **_allocator(),
        **_visible_gpus(runtime),
    }


def _allocator() -> dict[str, str]:
    if "GLIBC_TUNABLES" in os.environ or _glibc() < _OLDEST_GLIBC:
        return {}
    return {"GLIBC_TUNABLES": _KEEP_FREED_BLOCKS}


def _glibc() -> tuple[int, ...]:
    """Its version, (2, 36) for one; empty where there is another C library."""
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return ()
    version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[2]
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _visible_gpus(runtime: RuntimeConfig) -> dict[str, str]:
    if runtime.world > 1:  # each takes the one of its rank
        return {}
    return _one_gpu(runtime.device, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _one_gpu(device: str, visible: str | None) -> dict[str, str]:
    """Show a process the one GPU it computes on: trl refuses to train where it sees several.

    `cuda:1` is the second of those that are `visible` (None: all of the machine).
    """
    if device == "cpu" or (device == "auto" and visible == ""):
        return {}
    place = int(device.partition(":")[2] or 0)
    if visible is None:
        return {"CUDA_VISIBLE_DEVICES": str(place)}
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if place >= len(names):
        raise ConfigError(
            f"runtime.device is {device!r}, and CUDA_VISIBLE_DEVICES={visible!r} shows "
            f"{len(names)} GPUs; choose one of them"
        )
    return {"CUDA_VISIBLE_DEVICES": names[place]}


def quiet_libraries() -> None:
    """Let libraries log through `logging` at INFO and up, with no telemetry."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    for noisy in ("httpx", "httpcore", "urllib3", "filelock", "fsspec", "LiteLLM", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of kernels nobody asked for


def reset(runtime: RuntimeConfig) -> None:
    """Bring the process to the state in which every stage starts."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    gc.collect()
    if "torch" in sys.modules:
        reset_torch(runtime)


def give_back_memory() -> None:
    """Hand what a stage has freed to the system, for other processes and smaller stages."""
    import ctypes

    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl has none
        if trim is not None:
            trim(0)


def reset_torch(runtime: RuntimeConfig) -> None:
    """The part of `reset` for torch and transformers; a stage that uses them calls it first."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()  # its own handler, which passes nothing on
    transformers_logging.enable_propagation()
    torch.set_num_threads(thread_count(runtime))
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def has_gpu_driver() -> bool:
    """Whether a GPU that torch calls CUDA can be here, found without torch."""
    return sys.platform == "linux" and any(path.exists() for path in _GPU_DRIVERS)


def require_device(runtime: RuntimeConfig) -> None:
    """Refuse a GPU on a machine that has none.

    Raises:
        ConfigError: as said.
    """
    if runtime.device.startswith("cuda") and not has_gpu_driver():
        raise ConfigError(
            f"runtime.device is {runtime.device}, and this machine has no driver of a GPU; use "
            "auto or cpu"
        )
    if ":" in runtime.device and runtime.world > 1:
        raise ConfigError(
            f"runtime.device is {runtime.device}, and {runtime.world} processes take a GPU "
            "each; use cuda, and choose them with CUDA_VISIBLE_DEVICES"
        )


def device(runtime: RuntimeConfig) -> str:
    """torch's name of the device to compute on; a GPU is the only one this process sees."""
    if runtime.device in ("cpu", "mps"):
        return runtime.device
    import torch

    if torch.cuda.is_available():
        if "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return "cuda"
    if runtime.device == "auto":
        return "cpu"
    raise ConfigError(
        f"runtime.device is {runtime.device!r}, and torch {torch.__version__} sees no such GPU; "
        "use auto or cpu, or install a CUDA build of torch"
    )
