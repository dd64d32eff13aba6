"""Stage `dequantize`: a GGUF file becomes a safetensors model, once.

transformers' default GGUF load can neither be trained nor saved: the quantizer stays attached.
Loading with `GgufConfig(dequantize=True)` gives plain float32 weights. Writes `base/` (weights,
configuration and tokenizer) and `tokenizer/` (the tokenizer's files alone, so that what depends
on no weights has a key without them).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lorapar_core.base import TOKENIZER
from lorapar_core.errors import ModelError
from lorapar_core.process import reset_torch
from lorapar_core.spec import Spec

LONGEST_CONTEXT = 1 << 20


def run(spec: Spec, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    reset_torch(spec.runtime)
    gguf = spec.inputs["gguf"]
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{gguf.name} can't be dequantised: {error}") from error
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out / "base")
    if tokenizer.model_max_length > LONGEST_CONTEXT:  # GGUF says nothing: take the model's word
        tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(out / "base")
    _forget_origin(out / "base" / "config.json", out / "base" / "tokenizer_config.json")
    (out / "tokenizer").mkdir()
    for name in TOKENIZER:
        if (out / "base" / name).exists():
            shutil.copy(out / "base" / name, out / "tokenizer" / name)


def _forget_origin(*files: Path) -> None:
    """Drop what names a path or a training run instead of the model."""
    for file in files:
        fields = json.loads(file.read_text())
        for name in ("_name_or_path", "_model_name_or_path", "name_or_path", "local_files_only"):
            fields.pop(name, None)
        file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
