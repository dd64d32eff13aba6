"""A frozen base in 4 bits (QLoRA, arXiv:2305.14314): NormalFloat4, its scales quantized again.

The files on disk stay as they are: weights are quantized as they are loaded, on every machine
alike. Left as they are: embeddings, norms and the output head. The adapter stays float32, where
QLoRA's own and trl's are bfloat16: rounding it would move elements that must keep their bits.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lorapar_core.errors import ConfigError


def require_quantization(name: str) -> None:
    """Refuse a quantization whose package isn't installed, without importing it.

    Raises:
        ConfigError: as said.
    """
    if name == "nf4" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.quantization nf4 needs bitsandbytes, which isn't installed; use none, or "
            "pip install bitsandbytes (the extra `4bit`)"
        )


def nf4_arguments(dtype: str, device: str) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained`.

    The weights go to their device as they are quantized: the whole model never lies there. It is
    named by number, for to accelerate `cuda` is another device than `cuda:0`.
    """
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    where = torch.cuda.current_device() if device == "cuda" else device
    return {"quantization_config": config, "device_map": {"": where}}
