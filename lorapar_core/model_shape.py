"""What a model's memory follows from: the widths and counts in its `config.json`, or GGUF header.

Read without transformers. Known are decoders of Llama's form (Llama, Mistral, Qwen2 and their kin):
attention by query, key, value and output, then a gated MLP. Of anything else there is no shape, and
so no figure: a guess would be worse.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lorapar_core.config import MODULE_LETTERS
from lorapar_core.gguf_header import read_header

_COUNTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    "num_attention_heads",
)
_ELSEWISE = ("experts", "quantization_config", "kv_lora_rank", "layer_group", "ssm", "mamba")
"""Parts of field names that tell of experts, quantized weights, or other layers."""
_GGUF = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "num_experts": "expert_count",
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Widths in numbers, counts in pieces."""

    hidden: int
    inner: int
    """Width between the MLP's matrices."""
    layers: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head_width: int
    tied: bool
    """Whether the output head is the embedding."""

    @property
    def queries(self) -> int:
        """Width of a token's queries, all heads together."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Width of a token's keys; its values have the same."""
        return self.key_value_heads * self.head_width

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """A layer's linear modules: name -> width in, width out."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def parameters(self) -> int:
        """Weights of the model; the few biases that some have aren't counted."""
        layer = sum(into * out for into, out in self.linears.values()) + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + self.hidden + embeddings

    def adapted(self, modules: str | list[str]) -> tuple[str, ...] | None:
        """Names of a layer's modules that get an adapter, of `lora.modules`; None if it names
        others than ours."""
        if modules == "all-linear":
            return tuple(self.linears)
        names = [MODULE_LETTERS[m] for m in modules] if isinstance(modules, str) else modules
        known = tuple(name for name in self.linears if name in names)
        return known if len(known) == len(set(names)) else None


def read_shape(model: Path) -> ModelShape | None:
    """Shape of the model that `model`, a directory or a GGUF file, holds; None if it isn't told."""
    if model.is_file():
        return shape_of(_config_of_gguf(model))
    file = model / "config.json"
    return shape_of(json.loads(file.read_text())) if file.is_file() else None


def shape_of(config: dict[str, object]) -> ModelShape | None:
    """Shape by the fields of a `config.json`; None if one is missing, or tells of other layers.

    Older files leave out `num_key_value_heads` where every head has its own keys, and `head_dim`
    where the heads share the hidden width.
    """
    if any(part in name and config[name] for name in config for part in _ELSEWISE):
        return None
    hidden, inner, layers, vocabulary, heads = (_count(config.get(name)) for name in _COUNTS)
    tied = config.get("tie_word_embeddings")
    if not (hidden and inner and layers and vocabulary and heads) or not isinstance(tied, bool):
        return None
    return ModelShape(
        hidden=hidden,
        inner=inner,
        layers=layers,
        vocabulary=vocabulary,
        heads=heads,
        key_value_heads=_count(config.get("num_key_value_heads")) or heads,
        head_width=_count(config.get("head_dim")) or hidden // heads,
        tied=tied,
    )


def _config_of_gguf(path: Path) -> dict[str, object]:
    """A GGUF file's fields by the names that they have in a `config.json`."""
    header = read_header(path)
    if header is None:
        return {}
    kind = header.fields.get("general.architecture")
    config = {ours: header.fields.get(f"{kind}.{theirs}") for ours, theirs in _GGUF.items()}
    config["vocab_size"] = header.fields.get("tokenizer.ggml.tokens")  # how many there are
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    return config


def _count(value: object) -> int:
    """The number; 0 for anything that is no positive whole one."""
    return value if isinstance(value, int) and value > 0 else 0
