"""Models and adapters in memory: one loader, so that every stage computes with the same thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar_core.errors import ModelError
from lorapar_core.prompts import with_chat_template
from lorapar_core.quantization import nf4_arguments, require_quantization

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def load_base(
    path: Path,
    *,
    dtype: str,
    attention: str = "sdpa",
    quantization: str = "none",
    device: str = "cpu",
    shared: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The frozen base model, in evaluation mode.

    `shared` has it shared out among processes (`sharding.shard_arguments`), each on its own device.

    Raises:
        ModelError: the files are of no causal language model that transformers knows.
        ConfigError: the quantization's package isn't installed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    require_quantization(quantization)
    placed = dict(shared or {})
    if quantization != "none":
        placed |= nf4_arguments(dtype, device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, **placed
        )
    except (ValueError, KeyError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the base model in {path} can't be loaded: {reason}") from error
    model.requires_grad_(False)
    return (model if placed else model.to(device)).eval()


def load_tokenizer(path: Path, *, chat_template: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left, with a pad token; `chat_template` if it has none.

    Raises:
        ModelError: the files are of no tokenizer that transformers knows.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: no tokenizer can be loaded ({reason})") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return with_chat_template(tokenizer, chat_template)


def attach_adapter(
    model: PreTrainedModel, adapter: Path, *, dropout: float = 0.0, training: bool = False
) -> PeftModel:
    """`model` with the adapter in `adapter` as its one adapter, `default`, in float32, frozen.

    `dropout` goes into LoRA's modules as they are built (set on a built PEFT model it does
    nothing). `training` matters to other adapters than LoRA: see `other_adapters.attach`.
    """
    from peft import LoraConfig, get_peft_model

    from lorapar_core import other_adapters  # which builds on this module

    fields = read_adapter_config(adapter)
    if other_adapters.is_other(fields):
        return other_adapters.attach(model, adapter, training=training)
    config = LoraConfig(
        r=fields["r"],
        lora_alpha=fields["lora_alpha"],
        target_modules=fields["target_modules"],
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
        init_lora_weights=True,
    )
    peft_model = get_peft_model(model, config)
    state = load_tensors(adapter / ADAPTER_WEIGHTS)
    parameters = adapter_parameters(peft_model)
    _check_keys(set(state), set(parameters), adapter)
    set_weights(parameters, state)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return peft_model


def adapter_parameters(model: PeftModel, *, name: str = "default") -> dict[str, torch.nn.Parameter]:
    """Every weight of the adapter `name`, under its key in `adapter_model.safetensors`.

    Sorted by key. (For a KL term trl adds a frozen copy of ours, `ref`.) Those that make virtual
    tokens have PEFT's names in the model.
    """
    ends = (f".lora_A.{name}.weight", f".lora_B.{name}.weight", f".ia3_l.{name}")
    found = {
        f"{key}.".replace(f".{name}.", ".").removesuffix("."): parameter
        for key, parameter in model.named_parameters()
        if key.endswith(ends) or key.startswith(f"prompt_encoder.{name}.")
    }
    return dict(sorted(found.items()))


def set_weights(
    parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give each parameter the tensor of its key.

    Raises:
        ModelError: keys or shapes differ.
    """
    import torch

    shapes = {key: tuple(parameter.shape) for key, parameter in parameters.items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != shapes:
        odd = min(k for k in {*shapes, *found} if shapes.get(k) != found.get(k))
        raise ModelError(
            f"weights of {odd} have shape {found.get(odd)}; this adapter's is {shapes.get(odd)}"
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])


def _check_keys(stored: set[str], expected: set[str], adapter: Path) -> None:
    if stored != expected:
        odd = sorted(stored ^ expected)
        raise ModelError(
            f"adapter {adapter.name} doesn't fit this model: {len(odd)} tensors differ, "
            f"{odd[0]} first; expected the adapter made for this base"
        )


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def save_adapter(
    directory: Path,
    tensors: dict[str, torch.Tensor],
    *,
    r: int,
    lora_alpha: int,
    target_modules: list[str],
    base: str,
) -> None:
    """A canonical plain-LoRA adapter in PEFT's format: same content, same bytes.

    `base` names the base by hub id@commit or digest, never by a path; `lorapar artifacts export`
    puts a local path in its place.
    """
    from safetensors.torch import save

    directory.mkdir(parents=True, exist_ok=True)
    ordered = {key: tensors[key].detach().float().cpu().contiguous() for key in sorted(tensors)}
    # Not `save_file`: on a full disk that raises an error of its own kind.
    (directory / ADAPTER_WEIGHTS).write_bytes(save(ordered, metadata={"format": "pt"}))
    write_adapter_config(
        directory,
        {
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": lora_alpha,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": r,
            "target_modules": sorted(target_modules),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        },
    )


def write_adapter_config(directory: Path, fields: dict[str, Any]) -> None:
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (directory / ADAPTER_CONFIG).write_text(text)


def read_adapter_config(directory: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((directory / ADAPTER_CONFIG).read_text())
    return fields
