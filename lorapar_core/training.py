"""What SFT and GRPO share: the masked optimizer in trl's trainers, and the result.

Both trainers get their optimizer through `create_optimizer`, the one point that both honour after
the model is on its device. Every argument that trl would default differently is set explicitly.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.numpy import load_file

from lorapar_core import events, ranks
from lorapar_core.config import GrpoConfig, ModelConfig, SftConfig
from lorapar_core.errors import TooFewExamples, TrainingError
from lorapar_core.examples import seeded_order, system_ids
from lorapar_core.figures import Figures
from lorapar_core.journal import identity
from lorapar_core.loading import (
    adapter_parameters,
    attach_adapter,
    load_base,
    read_adapter_config,
    save_adapter,
)
from lorapar_core.masked_optimizer import MaskedOptimizer, restrict
from lorapar_core.packed_mask import PackedMask
from lorapar_core.partition import active_mask
from lorapar_core.process import device, reset_torch
from lorapar_core.sharding import shard_arguments
from lorapar_core.spec import Spec
from lorapar_core.trackers import tracking

if TYPE_CHECKING:
    from peft import PeftModel


_LOG = logging.getLogger(__name__)


class MaskedTraining:
    """Mixin for a trl trainer: trains the elements of `masks` by adapter key, no others."""

    masks: Mapping[str, PackedMask]
    inner: type[torch.optim.Optimizer]
    masked: MaskedOptimizer | None = None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        trainer: Any = self
        if trainer.optimizer is None:
            args = trainer.args
            parameters, masks = restrict(adapter_parameters(model or trainer.model), self.masks)
            trainer.optimizer = self.masked = optimizer = MaskedOptimizer(
                parameters,
                masks,
                inner=self.inner,
                lr=args.learning_rate,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
                weight_decay=args.weight_decay,
            )
            elements = sum(mask.shape.numel() for mask in self.masks.values())
            _LOG.info("training %d of %d elements", optimizer.active_count, elements)
        made: torch.optim.Optimizer = trainer.optimizer
        return made

    def tell_footprint(self, figures: Figures) -> None:
        """Report how many elements were trained, what the optimizer held for them, and how fast it
        went. (There is no optimizer where a checkpoint had the last step.)"""
        events.footprint(**figures.speed())
        if self.masked is not None:
            events.footprint(
                elements=sum(mask.shape.numel() for mask in self.masks.values()),
                active_elements=self.masked.active_count,
                optimizer_bytes=self.masked.state_bytes,
            )


@dataclass(frozen=True, slots=True)
class Setting:
    """What a training stage starts from."""

    model: PeftModel
    masks: dict[str, PackedMask]
    device: str
    dtype: str


def open_setting(spec: Spec, *, dropout: float) -> Setting:
    """Base, adapter and the stage's active mask, on the device.

    Nothing asks for a gradient until the optimizer is made: what does when a trl trainer is built
    on a quantized base, it rounds to bfloat16.
    """
    reset_torch(spec.runtime)
    config = ModelConfig.model_validate(spec.config["model"])
    where = device(spec.runtime)
    if where == "cuda":  # a CPU's kernels are deterministic as they are; it warns where none is
        torch.use_deterministic_algorithms(True, warn_only=True)
    base = load_base(
        spec.inputs["base"],
        dtype=config.dtype,
        attention=config.attention,
        quantization=config.quantization,
        device=where,
        shared=shard_arguments(spec.runtime),
    )
    model = attach_adapter(base, spec.inputs["adapter"], dropout=dropout)
    bits = load_file(spec.inputs["masks"])
    masks = {
        key: PackedMask(torch.from_numpy(active_mask(tensor, spec.config["system"])), where)
        for key, tensor in bits.items()
    }
    return Setting(model, masks, where, config.dtype)


def training_ids(spec: Spec, available: Mapping[str, Any]) -> list[str]:
    """Ids of the stage's training examples, in seeded order.

    Raises:
        TooFewExamples: there are none.
    """
    system = "all" if spec.config["data"] == "all" else spec.config["system"]
    ids = [i for i in system_ids(spec.inputs["labels"], system) if i in available]
    if not ids:
        raise TooFewExamples(
            f"{spec.name} has no example of system {system} to train on; look at the labels, or "
            "set the stage's data: all"
        )
    return seeded_order(ids, seed=spec.config[spec.stage]["seed"])


def common_arguments(
    spec: Spec, section: SftConfig | GrpoConfig, setting: Setting
) -> dict[str, Any]:
    """Trainer arguments that SFT and GRPO set alike."""
    return {
        "output_dir": str(spec.scratch / "trainer"),
        "per_device_train_batch_size": section.batch_size,
        "gradient_accumulation_steps": section.accumulation // ranks.world(),
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.schedule,
        "warmup_steps": section.warmup,
        "weight_decay": section.weight_decay,
        "adam_beta1": section.adam_beta1,
        "adam_beta2": section.adam_beta2,
        "adam_epsilon": 1e-8,
        "max_grad_norm": section.max_grad_norm,
        "num_train_epochs": spec.config["epochs"],
        "max_steps": section.max_steps or -1,
        "activation_checkpointing": section.activation_checkpointing,
        "bf16": setting.dtype == "bfloat16",
        "use_cpu": setting.device == "cpu",
        "seed": section.seed,
        "data_seed": section.seed,
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        **tracking(
            spec.runtime.trackers,
            run=f"{spec.name}-{identity(spec)[:8]}",
            directory=Path(spec.runtime.tensorboard_dir).expanduser(),
        ),
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": setting.device != "cpu",
        "remove_unused_columns": False,
    }


def _require_alike(trained: Mapping[str, torch.Tensor]) -> None:
    """Refuse adapters that have come apart.

    Raises:
        TrainingError: two ranks' differ.
    """
    digest = hashlib.sha256()
    for key in sorted(trained):
        digest.update(trained[key].cpu().numpy().tobytes())
    found = ranks.gather(digest.hexdigest())
    if len(set(found)) > 1:
        raise TrainingError(
            f"the adapters of {len(found)} processes differ: {', '.join(d[:12] for d in found)}; "
            "report this, with the recipe"
        )


def finish(spec: Spec, setting: Setting, figures: Figures, out: Path) -> None:
    """Write the trained adapter and its figures.

    Raises:
        TrainingError: no step was taken, or the processes' adapters differ.
    """
    fields = read_adapter_config(spec.inputs["adapter"])
    trained = {key: p.data for key, p in adapter_parameters(setting.model).items()}
    _require_alike(trained)
    if ranks.rank() != 0:
        return
    if not figures.rows:
        raise TrainingError(
            f"{spec.name} took no optimizer step: too little data for batch_size × accumulation; "
            "lower them or take more data"
        )
    save_adapter(
        out / "adapter",
        trained,
        r=fields["r"],
        lora_alpha=fields["lora_alpha"],
        target_modules=fields["target_modules"],
        base=fields["base_model_name_or_path"],
    )
    figures.save(out)
