"""Rows through a model side by side: as each by itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_configs import GPT2, SEVERAL, TINY
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DogeConfig,
    Gemma3TextConfig,
    LlamaConfig,
)

from lorapar_core.label_logprobs import install
from lorapar_core.row_passes import _triangle, packed, packs, padded, pads, prefilled

LLAMA = LlamaConfig(**TINY, initializer_range=0.3)  # else attention hardly matters
MLA = DeepseekV3Config(
    **{**TINY, "head_dim": 4, "num_key_value_heads": 2},
    q_lora_rank=8,
    kv_lora_rank=8,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    moe_intermediate_size=16,
    first_k_dense_replace=1,
)
PACKED = {
    "llama": LLAMA,
    "latent attention, experts": MLA,
    "gpt2": GPT2,
    **{name: SEVERAL[name] for name in ("qwen2", "gpt-neox", "mixtral", "opt")},
}
ROWS = [[7, 8, 9, 10], [11], [12, 13], [7, 8]]
BEFORE = [20, 21, 22]


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


def alone(model: Any, before: list[int] | None = None) -> torch.Tensor:
    """Hidden states of the rows, each in a call of its own."""
    skipped = before or []
    states = [model.base_model(torch.tensor([[*skipped, *row]])).last_hidden_state for row in ROWS]
    return torch.cat([hidden[0, len(skipped) :] for hidden in states])


@pytest.mark.parametrize("config", PACKED.values(), ids=list(PACKED))
def test_packed_rows_are_as_each_alone(config: Any) -> None:
    model = model_of(config)
    assert packs(model)
    assert torch.allclose(packed(model, ROWS), alone(model), atol=1e-5)
    after = prefilled(model, BEFORE)
    for _ in range(2):  # the cache is left as it was
        assert torch.allclose(packed(model, ROWS, after), alone(model, BEFORE), atol=1e-5)
    assert after.get_seq_length() == len(BEFORE)


def test_padded_rows_are_as_each_alone() -> None:
    model = model_of(LLAMA)
    assert torch.allclose(padded(model, ROWS), alone(model), atol=1e-5)


def test_gradients_are_those_of_each_alone() -> None:
    slopes = []
    for how in ("alone", "packed"):
        model = model_of(LLAMA)
        after = prefilled(model, BEFORE)
        hidden = packed(model, ROWS, after) if how == "packed" else alone(model, BEFORE)
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        slopes.append(model.get_input_embeddings().weight.grad)
    assert slopes[0][BEFORE].norm() > 0
    assert torch.allclose(*slopes, atol=1e-5)


@pytest.mark.parametrize("name", ["mistral, sliding window", "bloom"])
def test_models_that_are_padded(name: str) -> None:
    assert not packs(model_of(SEVERAL[name]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_of_the_models_own_is_padded(dtype: torch.dtype) -> None:
    """Doge's, which it learns; however little it changes."""
    model = model_of(DogeConfig(**TINY)).to(dtype)
    for layer in model.base_model.layers:
        torch.nn.init.normal_(layer.self_attn.A, std=0.02)
    assert not packs(model)
    assert pads(model)
    assert packs(model_of(LLAMA).to(dtype))


def test_a_model_that_sees_later_tokens_keeps_trls_forward() -> None:
    config = Gemma3TextConfig(
        **TINY, use_bidirectional_attention=True, layer_types=["full_attention"] * 2
    )
    model = model_of(config)
    assert not pads(model)
    install(model, temperature=1.0)
    assert "forward" not in vars(model)


def test_on_another_device_nothing_is_tried() -> None:
    with torch.device("meta"):
        model = model_of(LLAMA)
    install(model, temperature=1.0)
    assert "forward" not in vars(model)


def test_masks_take_no_more_memory_with_more_lengths() -> None:
    model = model_of(LLAMA)
    _triangle.cache_clear()
    for length in range(2, 30):
        packed(model, [[1] * length], prefilled(model, BEFORE))
    assert _triangle.cache_info().currsize <= 2


def test_eager_attention_is_padded() -> None:
    model = AutoModelForCausalLM.from_config(copy.deepcopy(LLAMA), attn_implementation="eager")
    assert not packs(model)


def test_a_model_that_comes_out_otherwise_is_padded() -> None:
    """Whatever the cause: here its positions depend on more than the row."""
    model = model_of(LLAMA).train()
    rotate = model.base_model.rotary_emb.forward

    def by_length(x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return rotate(x, position_ids * x.shape[1])

    model.base_model.rotary_emb.forward = by_length
    assert not packs(model)
    assert all(module.training for module in model.modules())


def test_a_model_that_refuses_is_padded() -> None:
    model = model_of(LLAMA)
    own = model.base_model.forward

    def strict(*args: Any, cu_seq_lens_q: Any = None, **more: Any) -> Any:
        if cu_seq_lens_q is not None:
            raise TypeError("cu_seq_lens_q is no argument of mine")
        return own(*args, **more)

    model.base_model.forward = strict
    assert not packs(model)


def test_attention_is_the_models_own_again() -> None:
    model = model_of(LLAMA)
    with pytest.raises(IndexError):
        packed(model, [[TINY["vocab_size"]]])
    assert model.config._attn_implementation == "sdpa"
    expected = alone(model)
    packed(model, ROWS)
    assert torch.equal(alone(model), expected)
