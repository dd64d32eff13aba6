"""Stage `initialize`: the adapter that is scored is the adapter that is trained.

gaussian: A and B both N(0, std²), each tensor drawn from its own generator (seed and key), so that
another module pattern leaves the common tensors alone. pissa and olora: PEFT's, which overwrite the
base weights with a residual; that residual base is written once (`base/`), and the adapter is a
plain LoRA on it from then on. (PEFT would derive the residual anew at every load, inexactly.)
default: LoRA's usual one, A uniform in ±1/√(width in) and B = 0, drawn like the gaussian.

config: lora or peft, model. Writes `adapter/`, and `base/` for pissa and olora.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lorapar_core import other_adapters
from lorapar_core.base import TOKENIZER, WEIGHTS, tree_digest
from lorapar_core.config import MODULE_LETTERS, LoraConfig, ModelConfig, PeftConfig
from lorapar_core.errors import ModelError
from lorapar_core.loading import adapter_parameters, load_base, save_adapter
from lorapar_core.process import device, reset_torch
from lorapar_core.spec import Spec

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def run(spec: Spec, out: Path) -> None:
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    reset_torch(spec.runtime)
    if "peft" in spec.config:
        _other(spec, out)
        return
    lora = LoraConfig.model_validate(spec.config["lora"])
    model = ModelConfig.model_validate(spec.config["model"])
    # Never quantized: PiSSA and OLoRA take their part out of the full weights, so that what 4 bits
    # have to hold is the smaller residual; and a gaussian adapter depends on shapes alone.
    # PiSSA and OLoRA factorise every matrix, which a GPU does sooner; the others need none.
    where = device(spec.runtime) if lora.residual else "cpu"
    base = load_base(
        spec.inputs["base"], dtype=model.dtype, attention=model.attention, device=where
    )
    targets = target_modules(base, lora.modules)
    peft_model = get_peft_model(
        base,
        PeftLoraConfig(
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            target_modules=targets,
            init_lora_weights=lora.init if lora.residual else True,
            task_type="CAUSAL_LM",
        ),
    )
    tensors = {key: parameter.data for key, parameter in adapter_parameters(peft_model).items()}
    if lora.residual:
        base_name = _store_residual(peft_model, spec.inputs["base"], out / "base")
    else:
        tensors = {key: _drawn(key, tensor.shape, lora) for key, tensor in tensors.items()}
        base_name = spec.config["base_name"]
    save_adapter(
        out / "adapter",
        tensors,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=targets,
        base=base_name,
    )


def _other(spec: Spec, out: Path) -> None:
    """Make an adapter that isn't LoRA."""
    model = ModelConfig.model_validate(spec.config["model"])
    base = load_base(spec.inputs["base"], dtype=model.dtype, attention=model.attention)
    section = PeftConfig.model_validate(spec.config["peft"])
    made = other_adapters.new(base, section, seed=spec.config["seed"])
    other_adapters.save(out / "adapter", made, base=spec.config["base_name"])


def _drawn(key: str, shape: torch.Size, lora: LoraConfig) -> torch.Tensor:
    if lora.init == "gaussian":
        return gaussian(key, shape, std=lora.init_std, seed=lora.seed)
    return default(key, shape, seed=lora.seed)


def gaussian(key: str, shape: torch.Size, *, std: float, seed: int) -> torch.Tensor:
    """N(0, std²) float32 values that depend on the seed and the tensor's key alone."""
    import torch

    return torch.randn(shape, generator=_generator(key, seed)) * std


def default(key: str, shape: torch.Size, *, seed: int) -> torch.Tensor:
    """Zeros for B; for A (rank, width in) uniform in ±1/√(width in), float32, by seed and key."""
    import torch

    if ".lora_B." in key:
        return torch.zeros(shape)
    bound = shape[-1] ** -0.5
    uniform = torch.rand(shape, generator=_generator(key, seed))
    return uniform.mul_(2 * bound).sub_(bound)


def _generator(key: str, seed: int) -> torch.Generator:
    import torch

    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def target_modules(model: PreTrainedModel, modules: str | list[str]) -> list[str]:
    """Names of the linear modules that get an adapter, sorted.

    Raises:
        ModelError: a name that no linear module of the model has, or a pattern the model can't
            have.
    """
    import torch

    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    last_parts = sorted({name.rpartition(".")[2] for name in linear})
    if modules == "all-linear":
        return last_parts
    wanted = [MODULE_LETTERS[m] for m in modules] if isinstance(modules, str) else modules
    missing = sorted({end for end in wanted if not any(_ends(name, end) for name in linear)})
    if missing:
        raise ModelError(
            f"lora.modules: this model has no linear modules {', '.join(missing)}; it has "
            f"{', '.join(last_parts)}"
        )
    return sorted(set(wanted))


def _ends(name: str, end: str) -> bool:
    """Whether `end` is the module's name or its last parts: PEFT's rule."""
    return name == end or name.endswith(f".{end}")


def _store_residual(peft_model: PeftModel, source: Path, target: Path) -> str:
    """Save the base with the adapter's part taken out; returns the name adapters call it by."""
    peft_model.unload().save_pretrained(target)
    for name in TOKENIZER:
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    return f"sha256:{tree_digest(target, (*WEIGHTS, *TOKENIZER))}"
