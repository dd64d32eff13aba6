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
    """Arguments of `from_pretrained`: none where nothing is shared out."""
    if runtime.sharding == "none":
        return {}
    from transformers.distributed import DistributedConfig

    count = _sharers(ranks.on_this_machine(), ranks.world())
    copies = ranks.world() // count
    return {"distributed_config": DistributedConfig(fsdp_size=count, dp_replicate_size=copies)}


def sharers(runtime: RuntimeConfig) -> int:
    """How many processes share one copy of the base."""
    return 1 if runtime.sharding == "none" else _sharers(runtime.processes, runtime.world)


def _sharers(on_a_machine: int, everywhere: int) -> int:
    """Those of a machine; of all machines, where each has one."""
    return on_a_machine if on_a_machine > 1 else everywhere


def is_sharded(model: Any) -> bool:
    """Whether `shard_arguments` had the model, or the one in PEFT's wrapper, shared out."""
    return bool(getattr(model, "_is_fsdp_managed_module", False))


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
            _average([p.grad for p in trainer.model.parameters() if p.grad is not None])
        return loss


def _average(tensors: list[torch.Tensor]) -> None:
    """Over all processes, in place."""
    import torch

    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= ranks.world()
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
