"""Configurations of random models of two layers, of several kinds."""

from __future__ import annotations

from transformers import (
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
)

VOCABULARY = 97
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
SEVERAL = {
    "qwen2": Qwen2Config(**TINY),
    "mistral, sliding window": MistralConfig(**TINY, sliding_window=4),
    "gpt-neox": GPTNeoXConfig(**{**TINY, "num_key_value_heads": 2}),
    "mixtral": MixtralConfig(**TINY, num_local_experts=2),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2),
    "opt": OPTConfig(
        **{**TINY, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "dropout": 0.0}
    ),
}
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64)
