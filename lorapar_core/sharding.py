"""A base model that several processes share (FSDP2), under adapters that each has whole.

transformers shards the frozen weights as it loads them: a process holds its part, and gets a
layer's other parts when the layer is computed. The adapters' weights and their optimizer stay as
they are, so masks, checkpoints and records see nothing of it. Each process must then make the same
passes in the same order: trl's own passes and transformers' `generate` do, ours
(`label_logprobs`, `rollout`) depend on lengths and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorapar_core import ranks
from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.errors import ConfigError
from lorapar_core.process import device

if TYPE_CHECKING:
    import torch


def require_shardable(recipe: Recipe) -> None:
    """Refuse a recipe whose base can't be shared out.

    Raises:
        ConfigError: as said.
    """
    if recipe.runtime.sharding == "none":
        return
    if recipe.runtime.world == 1:
        raise ConfigError(
            "runtime.sharding fsdp shares the base out among processes, and runtime.processes is "
            "1; use more, or sharding: none"
        )
    if recipe.model.quantization != "none":
        raise ConfigError(
            f"model.quantization is {recipe.model.quantization}, and 4-bit weights can't be shared "
            "out; use one of quantization and runtime.sharding"
        )
    if recipe.grpo.engine == "vllm" and any(stage.kind == "grpo" for stage in recipe.stages):
        raise ConfigError(
            "grpo.engine vllm is sent whole weights, and runtime.sharding fsdp has parts of them; "
            "use grpo.engine: transformers, or sharding: none"
        )


def shard_arguments(runtime: RuntimeConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained`: none where nothing is shared out.

    Raises:
        ConfigError: it would be on a CPU, and torch's build is for a GPU, where transformers puts
            it.
    """
    if runtime.sharding == "none":
        return {}
    import torch
    from transformers.distributed import DistributedConfig

    if device(runtime) == "cpu" and torch.accelerator.current_accelerator() is not None:
        raise ConfigError(
            f"runtime.sharding fsdp on a CPU needs a CPU build of torch, and {torch.__version__} "
            "is none; use sharding: none"
        )
    return {"distributed_config": DistributedConfig(fsdp_size=ranks.world())}


def sharers(runtime: RuntimeConfig) -> int:
    """How many processes share one copy of the base."""
    return 1 if runtime.sharding == "none" else runtime.world


def is_sharded(model: Any) -> bool:
    """Whether `shard_arguments` had the model, or the one in PEFT's wrapper, shared out."""
    from transformers.distributed.fsdp import is_fsdp_managed_module

    return bool(is_fsdp_managed_module(model))


class ShardedBase:
    """Mixin for a trl trainer: averages the adapters' gradients, which nobody else does then.

    transformers would, tensor by tensor, with an operation that gloo doesn't have.
    """

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        """Called by transformers' Trainer, for a sharded model only."""

    def training_step(self, model: Any, *args: Any, **more: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(model, *args, **more)  # type: ignore[misc]
        trainer: Any = self
        if is_sharded(trainer.model) and trainer.accelerator.sync_gradients:
            _average([p for p in trainer.model.parameters() if p.requires_grad])
        return loss


def _average(weights: list[torch.nn.Parameter]) -> None:
    """Gradients over all processes, in place; a process that didn't use a weight adds zeros."""
    import torch

    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= ranks.world()
    parts = flat.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.grad = part.view_as(weight)
