"""What draws GRPO's completions: transformers in the training process, or vLLM through trl.

Which of them is part of a stage's identity, for their completions differ; where vLLM runs isn't.
What trl would default is set here: vLLM's probabilities are not quite ours, so a completion counts
by exp(Σ log π_ours − log π_vllm), and not at all where that is above 3 (trl's `sequence_mask`).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lorapar_core.config import GrpoConfig, Recipe, RuntimeConfig
from lorapar_core.errors import ConfigError


def engines(recipe: Recipe) -> list[str]:
    """Names of the engines that the recipe's stages need."""
    return [recipe.grpo.engine] if any(stage.kind == "grpo" for stage in recipe.stages) else []


def require_engine(name: str) -> None:
    """Refuse an engine whose package isn't installed, without importing it.

    Raises:
        ConfigError: as said.
    """
    if name == "vllm" and find_spec("vllm") is None:
        raise ConfigError(
            "grpo.engine vllm needs vllm, which isn't installed (trl's client of a vLLM server "
            "needs it too); use transformers, or pip install 'vllm>=0.22,<=0.31' (the extra `vllm`)"
        )


def require_room(recipe: Recipe) -> None:
    """Refuse a vLLM that can't run as the recipe says.

    Raises:
        ConfigError: as said.
    """
    if "vllm" not in engines(recipe):
        return
    runtime = recipe.runtime
    if runtime.device in ("cpu", "mps"):
        raise ConfigError(
            f"grpo.engine vllm needs a CUDA GPU, and runtime.device is {runtime.device}; use "
            "grpo.engine: transformers"
        )
    if runtime.vllm_mode == "server":
        return
    if runtime.child == "resident":
        raise ConfigError(
            "runtime.vllm_mode colocate keeps its GPU memory for as long as its process lives, and "
            "runtime.child resident would run later stages there; use child: once"
        )
    if recipe.model.quantization != "none":
        raise ConfigError(
            f"model.quantization is {recipe.model.quantization}, and a vLLM in the training "
            "process takes no trained weights in 4 bits; use runtime.vllm_mode: server, which gets "
            "them dequantized"
        )
    # trl groups consecutive ranks; a group that stays on one node shares its fast links.
    if runtime.processes % runtime.vllm_tensor_parallel:
        raise ConfigError(
            f"runtime.vllm_tensor_parallel is {runtime.vllm_tensor_parallel}, into which "
            f"a machine's {runtime.processes} processes can't be grouped; make it a divisor of "
            "runtime.processes"
        )


def engine_arguments(
    section: GrpoConfig, runtime: RuntimeConfig, *, longest_prompt: int
) -> dict[str, Any]:
    """Arguments of trl's GRPOConfig; `longest_prompt` in tokens.

    Raises:
        ConfigError: the engine's package isn't installed.
    """
    if section.engine == "transformers":
        return {"use_vllm": False, "vllm_importance_sampling_correction": False}
    require_engine(section.engine)
    common = {
        "use_vllm": True,
        "vllm_mode": runtime.vllm_mode,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "sequence_mask",
        "vllm_importance_sampling_clip_max": 3.0,
        "vllm_importance_sampling_clip_min": None,
    }
    if runtime.vllm_mode == "server":
        host, _, port = runtime.vllm_server.rpartition(":")
        return {**common, "vllm_server_host": host, "vllm_server_port": int(port)}
    return {
        **common,
        "vllm_gpu_memory_utilization": runtime.vllm_memory_share,
        "vllm_tensor_parallel_size": runtime.vllm_tensor_parallel,
        # Else vLLM keeps room for as many tokens as the model could ever take.
        "vllm_max_model_length": longest_prompt + section.max_completion_length,
        "vllm_enable_sleep_mode": False,
    }
