"""A model of SmolLM2-135M's shape with random weights: no time hangs on what they are."""

from __future__ import annotations

from typing import Any

HIDDEN, INNER, KEY_VALUE, LAYERS = 576, 1536, 192, 30
VOCABULARY = 49152
MODULES = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
"""Those that get an adapter: QKVGUD."""


def smollm2() -> Any:
    """The model, the same at each call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
