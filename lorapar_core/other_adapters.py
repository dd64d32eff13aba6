"""Adapters that are not LoRA, through PEFT: how they are made, held, and kept.

    prompt-tuning    embeddings of virtual tokens, which begin as those of random words
    p-tuning         the same, made by an MLP (P-tuning's LSTM is PEFT's other choice)
    prefix-tuning    keys and values of virtual tokens, in every layer, without PEFT's projection
    ia3              factors of keys, values and the MLP's inner activations; they begin as ones

They are kept in PEFT's format, canonical as a LoRA adapter is: same content, same bytes. What PEFT
keeps of a virtual token is what the model sees. P-tuning's MLP isn't in that, so it is kept beside
it (`encoder.safetensors`), for the stage that trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapar_core.config import PeftConfig
from lorapar_core.errors import ModelError
from lorapar_core.loading import (
    ADAPTER_WEIGHTS,
    adapter_parameters,
    load_tensors,
    read_adapter_config,
    set_weights,
    write_adapter_config,
)

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ENCODER = "encoder.safetensors"
PROMPTS = "prompt_embeddings"
"""PEFT's key of what virtual tokens are to the model."""
PEFT_TYPES = {
    "prompt-tuning": "PROMPT_TUNING",
    "p-tuning": "P_TUNING",
    "prefix-tuning": "PREFIX_TUNING",
    "ia3": "IA3",
}
IA3_MODULES = ("k_proj", "v_proj", "down_proj")
"""The IA3 paper's: keys, values, and what goes into the MLP's last matrix."""
IA3_FEEDFORWARD = ("down_proj",)
_TOKENS = ("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads")
_FIELDS = {
    "PROMPT_TUNING": _TOKENS,
    "P_TUNING": (*_TOKENS, "encoder_hidden_size", "encoder_reparameterization_type"),
    "PREFIX_TUNING": (*_TOKENS, "prefix_projection"),
    "IA3": ("target_modules", "feedforward_modules"),
}
"""What makes each kind again; the rest of PEFT's fields have its defaults."""


def is_other(fields: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is of one of these."""
    return fields["peft_type"] in PEFT_TYPES.values()


def new(model: PreTrainedModel, section: PeftConfig, *, seed: int) -> PeftModel:
    """`model` with an untrained adapter that the seed draws.

    Raises:
        ModelError: IA3, and the model has no modules of these names.
    """
    import torch

    if section.kind == "ia3":
        _require_modules(model)
    fields = {"peft_type": PEFT_TYPES[section.kind], **_begun(section)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _attached(model, fields, training=True)


def _begun(section: PeftConfig) -> dict[str, Any]:
    if section.kind == "ia3":
        return {"target_modules": [*IA3_MODULES], "feedforward_modules": [*IA3_FEEDFORWARD]}
    fields: dict[str, Any] = {"num_virtual_tokens": section.virtual_tokens}
    if section.kind == "p-tuning":
        fields["encoder_hidden_size"] = section.encoder_hidden_size
    if section.kind == "prompt-tuning":
        fields["prompt_tuning_init"] = "SAMPLE_VOCAB"
    return fields


def _require_modules(model: PreTrainedModel) -> None:
    found = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = [name for name in IA3_MODULES if name not in found]
    if missing:
        raise ModelError(
            f"ia3 scales {', '.join(IA3_MODULES)}, and this model has no {', '.join(missing)}; use "
            "another method"
        )


def _attached(model: PreTrainedModel, fields: Mapping[str, Any], *, training: bool) -> PeftModel:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, get_peft_model

    given = {name: value for name, value in fields.items() if name != "peft_type"}
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(fields["peft_type"])](
        task_type="CAUSAL_LM", inference_mode=not training, **given
    )
    return get_peft_model(model, config)


def attach(model: PreTrainedModel, adapter: Path, *, training: bool) -> PeftModel:
    """`model` with the adapter in `adapter`, frozen; `training` has what makes its virtual tokens.

    Raises:
        ModelError: its tensors don't fit the model.
    """
    fields = read_adapter_config(adapter)
    kept = _FIELDS[fields["peft_type"]]
    made = _attached(
        model, {name: fields[name] for name in ("peft_type", *kept)}, training=training
    )
    parameters = adapter_parameters(made)
    encoder = adapter / ENCODER
    if training and encoder.exists():
        tensors = load_tensors(encoder)
    else:
        tensors = load_tensors(adapter / ADAPTER_WEIGHTS)
        if PROMPTS in tensors:
            tensors = {"prompt_encoder.embedding.weight": tensors[PROMPTS]}
    set_weights(parameters, tensors)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return made


def save(directory: Path, model: PeftModel, *, base: str) -> None:
    """Keep the model's adapter; `base` names its base by hub id@commit or digest."""
    from safetensors.torch import save as to_bytes

    config = model.active_peft_config
    kind = str(_plain(config.peft_type))
    tensors: dict[str, torch.Tensor] = dict(adapter_parameters(model))
    encoder: dict[str, torch.Tensor] = {}
    if kind != "IA3":
        encoder = tensors if kind == "P_TUNING" else {}
        tensors = {PROMPTS: model.get_prompt_embedding_to_save("default")}
    directory.mkdir(parents=True, exist_ok=True)
    for name, some in ((ADAPTER_WEIGHTS, tensors), (ENCODER, encoder)):
        if some:
            ordered = {key: some[key].detach().float().cpu().contiguous() for key in sorted(some)}
            (directory / name).write_bytes(to_bytes(ordered, metadata={"format": "pt"}))
    write_adapter_config(
        directory,
        {
            "base_model_name_or_path": base,
            "inference_mode": True,
            "peft_type": kind,
            "task_type": "CAUSAL_LM",
            **{name: _plain(getattr(config, name)) for name in _FIELDS[kind]},
        },
    )


def _plain(value: Any) -> Any:
    """A field as JSON holds it, always the same: PEFT has sets, and enumerations."""
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, set | list) else value
