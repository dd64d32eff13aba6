"""The estimate of a stage's memory: its parts against what torch keeps, and what moves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorapar_core import memory
from lorapar_core.config import Recipe
from lorapar_core.memory import Asked, Batch, Estimate, Setup, activations, estimate
from lorapar_core.model_shape import ModelShape
from lorapar_core.recipe import load_recipe, parse_recipe

GIB = 2**30
RECIPES = Path(__file__).parents[3] / "deployments" / "recipes"
LLAMA2_7B = ModelShape(
    hidden=4096,
    inner=11008,
    layers=32,
    vocabulary=32000,
    heads=32,
    key_value_heads=32,
    head_width=128,
    tied=False,
)
ALL = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")


def recipe(**sections: dict[str, Any]) -> Recipe:
    return parse_recipe({"teachers": [{"name": "self", "provider": "local"}], **sections})


def needs(stage: str, *, shape: ModelShape = LLAMA2_7B, **sections: dict[str, Any]) -> Estimate:
    found = estimate(stage, recipe(**sections), shape, device="gpu")
    assert found is not None
    return found


def test_llama_2_7b_weighs_what_it_weighs() -> None:
    assert LLAMA2_7B.parameters == 6_738_415_616
    parts = needs("sft", model={"dtype": "bfloat16"}).parts
    assert parts["base weights"] / GIB == pytest.approx(12.55, abs=0.005)


def test_nf4_holds_the_linear_weights_in_half_a_byte() -> None:
    """4.127 bits each (Dettmers et al. 2023) of 6,476,005,376; embeddings and head stay."""
    parts = needs("sft", model={"dtype": "bfloat16", "quantization": "nf4"}).parts
    expected = 6_476_005_376 * 4.127 / 8 + 2 * (6_738_415_616 - 6_476_005_376)
    assert parts["base weights"] == pytest.approx(expected, rel=1e-4)


def test_llama_2_7b_has_17_891_328_adapter_elements() -> None:
    parts = needs("sft", lora={"r": 8, "modules": "QKVGUD"}).parts
    assert parts["adapter"] == parts["gradients"] == 4 * 17_891_328
    assert parts["optimizer"] == 2 * parts["adapter"]
    assert parts["masks"] == 17_891_328 / 8


@pytest.mark.parametrize(
    ("kind", "elements"),
    [
        ("prompt-tuning", 20 * 1024),
        ("p-tuning", 300_288),
        ("prefix-tuning", 983_040),
        ("ia3", 24 * (1024 + 1024 + 4096)),
    ],
)
def test_other_adapters_are_as_small_as_peft_says(kind: str, elements: int) -> None:
    """Of P-tuning and prefix-tuning, PEFT's guide tells the figures for bloomz-560m's width and
    depth, with 20 virtual tokens and an encoder of 128."""
    shape = replace(LLAMA2_7B, hidden=1024, inner=4096, layers=24, heads=16, key_value_heads=16)
    shape = replace(shape, head_width=64)
    parts = needs("sft", shape=shape, peft={"kind": kind}).parts
    assert parts["adapter"] == parts["gradients"] == 4 * elements


@pytest.mark.parametrize("stage", ["sft", "evaluate"])
def test_virtual_tokens_take_the_place_of_as_many_others(stage: str) -> None:
    def of(virtual: int) -> int:
        return needs(stage, peft={"kind": "prompt-tuning", "virtual_tokens": virtual}).total

    assert of(20) < of(200)


def test_the_shipped_llama_recipe_fits_48_gb() -> None:
    shipped = load_recipe("gsm8k-llama2-7b", recipes=RECIPES)
    for stage in memory.STAGES:
        found = estimate(stage, shipped, LLAMA2_7B, device="gpu")
        assert found is not None
        assert found.total < 48e9


@pytest.mark.parametrize(
    ("stage", "less", "more"),
    [
        ("sft", {"sft": {"batch_size": 2}}, {"sft": {"batch_size": 4}}),
        ("sft", {"sft": {"max_length": 256}}, {"sft": {"max_length": 512}}),
        ("sft", {"lora": {"r": 8}}, {"lora": {"r": 16}}),
        ("sft", {"lora": {"modules": "QKV"}}, {"lora": {"modules": "QKVGUD"}}),
        ("sft", {"sft": {"optimizer": "adamw_8bit"}}, {"sft": {"optimizer": "adamw"}}),
        ("sft", {"model": {"dtype": "bfloat16"}}, {"model": {"dtype": "float32"}}),
        ("sft", {"lora": {"dropout": 0.0}}, {"lora": {"dropout": 0.1}}),
        ("grpo", {"grpo": {"batch_size": 8}}, {"grpo": {"batch_size": 16}}),
        (
            "grpo",
            {"grpo": {"max_completion_length": 256}},
            {"grpo": {"max_completion_length": 512}},
        ),
        ("grpo", {"grpo": {"kl_reference": "base"}}, {"grpo": {"kl_reference": "start"}}),
        ("grpo", {"grpo": {"kl_coefficient": 0.0}}, {"grpo": {"kl_coefficient": 0.1}}),
        ("moments", {"importance": {"batch_tokens": 768}}, {"importance": {"batch_tokens": 2048}}),
        (
            "evaluate",
            {"evaluation": {"batch_tokens": 4096}},
            {"evaluation": {"batch_tokens": 8192}},
        ),
    ],
)
def test_more_takes_more(stage: str, less: dict[str, Any], more: dict[str, Any]) -> None:
    assert needs(stage, **less).total < needs(stage, **more).total


@pytest.mark.parametrize("stage", memory.STAGES)
def test_a_deeper_model_takes_more(stage: str) -> None:
    deeper = replace(LLAMA2_7B, layers=40)
    assert needs(stage).total < needs(stage, shape=deeper).total


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_activation_checkpointing_takes_less(stage: str) -> None:
    plain, saving = (
        needs(stage, **{stage: {"activation_checkpointing": flag}}) for flag in (False, True)
    )
    assert saving.total < plain.total
    assert saving.parts["activations"] < plain.parts["activations"] / 3


def test_grpo_tells_the_larger_of_training_and_generation() -> None:
    training = needs("grpo").parts
    assert "keys and values" not in training
    many = {"accumulation": 64, "activation_checkpointing": True}  # completions made at once
    assert "keys and values" in needs("grpo", grpo=many).parts


HALF: dict[str, Any] = {
    "model": {"dtype": "bfloat16"},
    "lora": {"r": 8, "modules": "QKVGUD"},
    "evaluation": {"batch_tokens": 8192},
}
A_TOKENS_CACHE = 33 * 2 * 4096 * 2
"""Bytes: a key and a value of 4096 numbers in each of 32 layers, and of one that is copied."""
A_TOKEN = 2 * 4 * 4097 + 6 * 8 * 2 + 3 * 11008 * 2 + (5 * 4096 + 11008) * 2 + 4 * 4096 * 2 + 4 * 32
"""Bytes of a layer's tensors: two norms, six low ranks, the MLP's gate, what six modules read, and
attention's queries, keys, values and output, with a sum for each head. The mask comes to it."""


def put(asked: Asked, *, device: memory.Device = "gpu", **sections: Any) -> dict[str, int]:
    chosen = recipe(**{**HALF, **sections})
    found = estimate("evaluate", chosen, LLAMA2_7B, device=device, asked=asked)
    assert found is not None
    return dict(found.parts)


def test_a_benchmark_that_is_written_fills_its_batches() -> None:
    """16 rows of 300 tokens and 212 new ones; or 33 of 32, whose new ones are chosen from two
    tensors of 32,000 logits each."""
    parts = put(Asked("generate", 300, 212))
    assert parts["keys and values"] == 8192 * A_TOKENS_CACHE == 4_429_185_024
    assert parts["activations"] == 16 * 300 * (A_TOKEN + 300 * 2) == 937_881_600
    assert parts["head"] == 2 * 33 * 32_000 * 4
    assert put(Asked("code", 300, 212, drawn=True))["head"] == 8 * 33 * 32_000 * 4
    assert put(Asked("code", 300, 212)) == parts


def test_rows_that_leave_room_make_way_for_shorter_ones() -> None:
    """Of 5000 tokens one row goes into a batch, of a few less than the half two."""
    parts = put(Asked("generate", 4700, 300))
    assert parts["keys and values"] == 8192 * A_TOKENS_CACHE
    assert parts["activations"] == 4700 * (A_TOKEN + 4700 * 2) * 8192 // 5000


def test_a_row_longer_than_a_batch_goes_alone() -> None:
    parts = put(Asked("generate", 9000, 1000))
    assert parts["keys and values"] == 10_000 * A_TOKENS_CACHE
    assert parts["activations"] == 9000 * (A_TOKEN + 9000 * 2)
    assert parts["head"] == 2 * 9 * 32_000 * 4


def test_choices_hold_their_prefix_once_more_and_1024_places() -> None:
    parts = put(Asked("choice", 2000))
    assert parts["keys and values"] == (8192 + 2000) * A_TOKENS_CACHE == 5_510_529_024
    assert parts["activations"] == 8192 * (A_TOKEN + 2000 * 2) == 1_628_504_064
    assert parts["head"] == 1024 * 32_000 * 2


def test_a_choice_behind_virtual_tokens_has_logits_everywhere() -> None:
    tuned = {"peft": {"kind": "prompt-tuning", "virtual_tokens": 20}}
    assert put(Asked("choice", 2000), **tuned)["head"] == 2020 * 32_000 * 2
    assert put(Asked("choice", 500), **tuned)["head"] == 1024 * 32_000 * 2


def test_a_cpu_has_holes_of_what_an_evaluation_makes() -> None:
    parts = put(Asked("generate", 300, 212), device="cpu")
    made = sum(parts[name] for name in ("keys and values", "activations", "head"))
    assert parts["heap holes"] == round(0.2 * made)


def test_the_own_test_set_is_one_more_that_is_written() -> None:
    lengths = memory.Lengths(sft=500, prompt=300)
    chosen = recipe(**{**HALF, "evaluation": {"batch_tokens": 8192, "max_new_tokens": 212}})
    own = estimate("evaluate", chosen, LLAMA2_7B, device="gpu", lengths=lengths)
    assert own is not None
    assert own.parts == put(Asked("generate", 300, 212))


def test_parts_stand_in_order_and_add_up() -> None:
    found = needs("moments")
    assert found.total == sum(found.parts.values())
    assert list(found.parts.values()) == sorted(found.parts.values(), reverse=True)
    assert next(iter(found.parts)) == "base weights"


def test_modules_of_an_unknown_kind_give_no_figure() -> None:
    unknown = recipe(lora={"modules": ["q_proj", "experts"]})
    assert estimate("sft", unknown, LLAMA2_7B, device="gpu") is None


def test_constants_are_the_codes_own() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from lorapar_core.teachers.local import BATCH_TOKENS

    assert memory.VOTE_TOKENS == BATCH_TOKENS
    assert (memory.HEAD_ROWS, memory.HEAD_COLUMNS) == (
        TOKEN_CHUNK_SIZE,
        _CHUNKED_LOGPROB_CHUNK_SIZE,
    )


SHAPE = ModelShape(
    hidden=96,
    inner=256,
    layers=4,
    vocabulary=64,
    heads=6,
    key_value_heads=2,
    head_width=16,
    tied=True,
)
ROWS, TOKENS = 4, 53  # a prime that divides the size of no weight


@pytest.mark.parametrize(
    ("dtype", "dropout", "masked", "attention", "modules"),
    [
        ("float32", True, True, "sdpa", ALL),  # SFT
        ("float32", False, True, "sdpa", ALL),  # GRPO
        ("float32", True, False, "sdpa", ("q_proj", "v_proj", "o_proj")),
        ("float32", False, True, "eager", ("q_proj", "v_proj", "o_proj")),
        ("float32", True, False, "eager", ALL),
        ("bfloat16", True, True, "sdpa", ALL),
        ("bfloat16", False, False, "sdpa", ("q_proj", "v_proj", "o_proj")),
        ("bfloat16", False, True, "eager", ALL),
    ],
)
def test_activations_are_what_torch_keeps(
    dtype: str, dropout: bool, masked: bool, attention: str, modules: tuple[str, ...]
) -> None:
    import torch

    model = adapted(dtype, modules, attention=attention, dropout=0.1 * dropout)
    batch = Batch(ROWS, TOKENS, masked=masked, dropout=dropout)

    def forward(ids: Any, mask: Any) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            model.get_base_model().model(input_ids=ids, attention_mask=mask, use_cache=False)

    kept = kept_bytes(model, forward, masked=masked)
    setup = Setup(SHAPE, modules, 8, memory.WIDTH[dtype], attention, "cpu")
    # The lowest layer's input asks for no gradient, so some of what others keep isn't kept there.
    assert activations(setup, batch) == pytest.approx(kept, rel=0.08)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_scoring_are_what_torch_keeps(dtype: str) -> None:
    from lorapar_core.per_example import summing

    model = adapted(dtype, ALL).eval()
    model.requires_grad_(False)

    def forward(ids: Any, _mask: Any) -> None:
        with summing(model) as sums:
            sums.expect(ids)
            model.get_base_model().model(input_ids=ids, use_cache=False)

    kept = kept_bytes(model, forward, masked=False)
    setup = Setup(SHAPE, ALL, 8, memory.WIDTH[dtype], "sdpa", "cpu")
    assert activations(setup, Batch(ROWS, TOKENS, per_example=True)) == pytest.approx(
        kept, rel=0.08
    )


def adapted(
    dtype: str, modules: tuple[str, ...], *, attention: str = "sdpa", dropout: float = 0.0
) -> Any:
    """A model of `SHAPE` with a trainable adapter in float32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.inner,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.key_value_heads,
        tie_word_embeddings=SHAPE.tied,
        attn_implementation=attention,
    )
    base = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False)
    return get_peft_model(
        base, LoraConfig(r=8, target_modules=list(modules), lora_dropout=dropout)
    ).train()


def kept_bytes(model: Any, forward: Callable[[Any, Any], None], *, masked: bool) -> int:
    """Bytes of the tensors that autograd keeps in `forward`, weights and their casts aside."""
    import torch

    ids = torch.randint(0, SHAPE.vocabulary, (ROWS, TOKENS))
    mask = torch.ones_like(ids)
    if masked:
        mask[0, : TOKENS // 2] = 0
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}  # the tensors too, or their places would be taken again

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.numel() % TOKENS == 0:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(ids, mask)
    return sum(size for size, _ in kept.values())
