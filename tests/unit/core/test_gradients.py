"""Batched per-example gradients against the plain loop, and what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tiny import tiny_model_dir
from torch.utils._python_dispatch import TorchDispatchMode

from lorapar_core.batches import batches
from lorapar_core.errors import DataError, ModelError
from lorapar_core.gradients import IGNORED, Moments, Side, TokenRow, collate, moments
from lorapar_core.loading import adapter_parameters, load_base

RANK = 4
MODULES = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(
    path: Path,
    *,
    attention: str = "sdpa",
    dtype: str = "float32",
    quantization: str = "none",
    **lora: Any,
) -> Any:
    base = load_base(path, dtype=dtype, attention=attention, quantization=quantization)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=8, target_modules=MODULES, **lora))
    return drawn(model)


def drawn(model: Any) -> Any:
    """With random adapter weights."""
    generator = torch.Generator().manual_seed(3)
    for parameter in adapter_parameters(model).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
        parameter.requires_grad_(False)
    return model.eval()


def rows(count: int = 7) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(5)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(6, 400, (length,), generator=generator).tolist()

    return [TokenRow(str(n), ids(2, 30), ids(1, 12)) for n in range(count)]


def loop(model: Any, examples: list[TokenRow]) -> Moments:
    """The example script's way: one example, one backward pass, transformers' own loss."""
    parameters = adapter_parameters(model)
    first = {key: torch.zeros_like(p) for key, p in parameters.items()}
    second = {key: torch.zeros_like(p) for key, p in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for row in examples:
        model.zero_grad()
        labels = [IGNORED] * len(row.prompt_ids) + row.answer_ids
        ids = torch.tensor([row.prompt_ids + row.answer_ids])
        model(input_ids=ids, labels=torch.tensor([labels])).loss.backward()
        for key, parameter in parameters.items():
            assert parameter.grad is not None
            first[key] += parameter.grad
            second[key] += parameter.grad**2
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None
    return Moments(first, second, len(examples))


def assert_same(ours: Moments, theirs: Moments, tolerance: float = 1e-5) -> None:
    assert ours.count == theirs.count
    for mine, other in ((ours.first, theirs.first), (ours.second, theirs.second)):
        assert mine.keys() == other.keys()
        for key in mine:
            largest = other[key].abs().max()
            assert largest > 0, key
            assert (mine[key] - other[key]).abs().max() <= tolerance * largest, key


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch_tokens", [1, 90, 4096])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_equals_the_one_example_loop(
    tiny_model: Path, attention: str, batch_tokens: int, padding: Side
) -> None:
    """The tiny model has two query heads to a key head."""
    model = adapted(tiny_model, attention=attention)
    ours = moments(model, rows(), batch_tokens=batch_tokens, padding=padding)
    assert_same(ours, loop(model, rows()))


@pytest.mark.parametrize("padding", ["right", "left"])
def test_equals_the_loop_where_the_head_is_the_embedding(tmp_path: Path, padding: Side) -> None:
    model = adapted(tiny_model_dir(tmp_path / "tied", tied=True))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ours = moments(model, rows(), batch_tokens=200, padding=padding)
    assert_same(ours, loop(model, rows()))


def small(kind: str) -> Any:
    """Random models with parts that the tiny one hasn't."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    sizes: dict[str, Any] = {
        "vocab_size": 448,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pad_token_id": None,
    }
    torch.manual_seed(0)
    if kind == "biases":
        model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes))
        for layer in model.model.layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                torch.nn.init.normal_(getattr(layer.self_attn, name).bias, std=0.1)
        return model
    if kind == "capped logits and sliding windows":
        return Gemma2ForCausalLM(
            Gemma2Config(**sizes, sliding_window=8, final_logit_softcapping=3.0)
        )
    return GPT2LMHeadModel(GPT2Config(vocab_size=448, n_embd=64, n_layer=2, n_head=4))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("kind", ["biases", "capped logits and sliding windows", "transposed"])
def test_equals_the_loop_on_other_models(kind: str, padding: Side) -> None:
    """With a scale that is no power of two."""
    base = small(kind).requires_grad_(False)
    targets = ["c_attn", "c_fc"] if kind == "transposed" else MODULES
    model = drawn(get_peft_model(base, LoraConfig(r=3, lora_alpha=7, target_modules=targets)))
    ours = moments(model, rows(), batch_tokens=120, padding=padding)
    assert_same(ours, loop(model, rows()))


def test_equals_vmap(tiny_model: Path) -> None:
    """torch.func differentiates each example by itself; it needs eager attention."""
    model = adapted(tiny_model, attention="eager")
    examples = rows()
    ids, mask, labels = collate(examples)
    named = dict(model.named_parameters())
    trained = {name: p for name, p in named.items() if ".lora_" in name}
    frozen = {name: p for name, p in named.items() if name not in trained}

    def loss(adapter: Any, ids: Any, mask: Any, labels: Any) -> torch.Tensor:
        given = {"input_ids": ids[None], "attention_mask": mask[None], "use_cache": False}
        logits = torch.func.functional_call(model, {**adapter, **frozen}, (), given).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        )
        return losses / (labels != IGNORED).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(
        trained, ids, mask, labels
    )
    first = {name.replace(".default.", "."): g.sum(0) for name, g in each.items()}
    second = {name.replace(".default.", "."): (g**2).sum(0) for name, g in each.items()}
    ours = moments(model, examples, batch_tokens=4096)
    assert_same(ours, Moments(first, second, len(examples)))


def test_a_bfloat16_base_costs_batches_no_more_than_the_loop(tiny_model: Path) -> None:
    """Both against the float32 result: rounding, and nothing of ours."""
    exact = loop(adapted(tiny_model), rows())
    half = adapted(tiny_model, dtype="bfloat16")
    ours, theirs = moments(half, rows(), batch_tokens=200), loop(half, rows())
    for name in ("first", "second"):
        mine, other = (error(getattr(m, name), getattr(exact, name)) for m in (ours, theirs))
        assert 0 < mine <= 1.5 * other, name


def error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Mean over tensors of the largest error, relative to the tensor's largest value."""
    errors = [(found[k].float() - e).abs().max() / e.abs().max() for k, e in exact.items()]
    return float(torch.stack(errors).mean())


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 4bit")
@pytest.mark.parametrize("batch_tokens", [1, 90, 4096])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_equals_the_loop_on_a_4_bit_base(
    tiny_model: Path, batch_tokens: int, padding: Side
) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    model = adapted(tiny_model, quantization="nf4")
    kinds = {type(layer) for layer in model.modules() if isinstance(layer, LoraLayer)}
    assert kinds == {Linear4bit}
    theirs = loop(model, rows())
    assert_same(moments(model, rows(), batch_tokens=batch_tokens, padding=padding), theirs)
    full = loop(adapted(tiny_model), rows())
    assert error(theirs.first, full.first) > 0.01, "4 bits are other weights"


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 4bit")
def test_a_4_bit_base_in_bfloat16_costs_batches_no_more_than_the_loop(tiny_model: Path) -> None:
    """There PEFT rounds twice where we round once."""
    exact = loop(adapted(tiny_model, quantization="nf4"), rows())
    half = adapted(tiny_model, dtype="bfloat16", quantization="nf4")
    ours, theirs = moments(half, rows(), batch_tokens=200), loop(half, rows())
    for name in ("first", "second"):
        mine, other = (error(getattr(m, name), getattr(exact, name)) for m in (ours, theirs))
        assert 0 < mine <= 1.5 * other, name


def test_asks_no_weight_for_a_gradient_and_leaves_no_hook(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    ids = torch.tensor([[7, 8, 9]])
    before = model(input_ids=ids).logits
    moments(model, rows(2), batch_tokens=512)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    after = model(input_ids=ids).logits
    assert after.shape == before.shape
    assert torch.equal(after, before)
    assert not after.requires_grad


def test_shards_in_any_order_add_up_to_the_loop(tiny_model: Path) -> None:
    model, whole = adapted(tiny_model), rows(9)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        shards = [moments(model, whole[3 * k : 3 * k + 3], batch_tokens=90) for k in order]
        first = {key: sum(shard.first[key] for shard in shards) for key in shards[0].first}
        second = {key: sum(shard.second[key] for shard in shards) for key in shards[0].second}
        assert_same(Moments(first, second, 9), loop(model, whole))


def test_rows_of_different_lengths_give_the_same_bytes_in_any_order(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    different = list({len(row): row for row in rows(12)}.values())
    assert len(different) > 6
    once = moments(model, different, batch_tokens=90)
    again = moments(model, different[::-1], batch_tokens=90)
    for key in once.first:
        assert torch.equal(once.first[key], again.first[key])
        assert torch.equal(once.second[key], again.second[key])


def test_one_layers_per_example_gradients_live_at_a_time(tiny_model: Path) -> None:
    """They are what batched products make that sum over tokens."""
    live, most, made_in_all = set[int](), 0, 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal most, made_in_all
            made = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.bmm.default and made.shape[:2] == (7, RANK):
                live.add(id(made))
                weakref.finalize(made, live.discard, id(made))
                most, made_in_all = max(most, len(live)), made_in_all + 1
            return made

    with Watch():
        found = moments(adapted(tiny_model), rows(), batch_tokens=4096)
    assert (most, made_in_all) == (1, len(found.first))


def test_collate_marks_the_answer_only() -> None:
    ids, mask, labels = collate([TokenRow("a", [1, 2, 3], [4, 5]), TokenRow("b", [6], [7])])
    assert ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert labels.tolist() == [[-100, -100, 4, 5, -100], [7, -100, -100, -100, -100]]


def test_batches_are_by_length_within_the_budget_and_cover_all() -> None:
    lengths = [9, 2, 5, 5, 30, 1]
    found = list(batches(lengths, 12))
    assert sorted(i for batch in found for i in batch) == list(range(6))
    assert all(
        len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 12 for batch in found
    )
    assert list(batches([], 12)) == []


def test_refuses_dora(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="variant such as DoRA"):
        moments(adapted(tiny_model, use_dora=True), rows(1), batch_tokens=64)


def test_refuses_a_merged_adapter(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    model.merge_adapter()
    with pytest.raises(ModelError, match="a merged adapter"):
        moments(model, rows(1), batch_tokens=64)


def test_refuses_activation_checkpointing(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    model.base_model.model.gradient_checkpointing_enable()
    with pytest.raises(ModelError, match="activation checkpointing is on"):
        moments(model, rows(1), batch_tokens=64)


def test_refuses_a_disabled_adapter_and_one_on_the_embedding(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    with model.disable_adapter(), pytest.raises(ModelError, match="a disabled adapter"):
        moments(model, rows(1), batch_tokens=64)
    base = load_base(tiny_model, dtype="float32")
    embedded = get_peft_model(base, LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]))
    with pytest.raises(ModelError, match="an embedding adapter"):
        moments(embedded.eval(), rows(1), batch_tokens=64)


def test_refuses_several_adapters(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="exactly one"):
        moments(model, rows(1), batch_tokens=64)


def test_refuses_dropout_in_training_mode(tiny_model: Path) -> None:
    model = adapted(tiny_model, lora_dropout=0.1).train()
    with pytest.raises(ModelError, match="dropout in training mode"):
        moments(model, rows(1), batch_tokens=64)


def test_refuses_an_adapter_that_is_not_on_a_linear_module(tiny_model: Path) -> None:
    base = load_base(tiny_model, dtype="float32")
    name = "model.layers.0.mlp.up_proj.weight"
    bare = get_peft_model(base, LoraConfig(r=2, target_parameters=[name], target_modules=[]))
    with pytest.raises(ModelError, match=r"up_proj has an adapter of another kind \(ParamWrapper"):
        moments(bare.eval(), rows(1), batch_tokens=64)


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_refuses_a_bias_of_the_adapter(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="a bias of its own"):
        moments(adapted(tiny_model, lora_bias=True), rows(1), batch_tokens=64)


@pytest.mark.parametrize(
    "order",
    [lambda x: x.flatten(0, 1), lambda x: x.flatten(0, 1)[None], lambda x: x.transpose(0, 1)],
    ids=["a list", "a list of one", "tokens first"],
)
def test_refuses_a_module_that_sees_tokens_in_another_order(
    tiny_model: Path, order: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """As experts do; and the model is left as it was."""
    model = adapted(tiny_model)
    layer = model.base_model.model.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda x: forward(order(x)).sum() * x
    ids = torch.tensor([[7, 8, 9]])
    before = model(input_ids=ids).logits
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.gate_proj is given an input of shape"):
        moments(model, rows(2), batch_tokens=512)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_refuses_a_module_that_is_used_twice(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    layer = model.base_model.model.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda x: forward(x) + forward(2 * x)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.gate_proj is used twice"):
        moments(model, rows(2), batch_tokens=512)


def test_refuses_an_inactive_adapter(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module._active_adapter = []
    with pytest.raises(ModelError, match="an inactive adapter"):
        moments(model, rows(1), batch_tokens=64)


def test_refuses_other_weights_that_train(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"1 weights beside the adapter .*norm\.modules_to_save"):
        moments(adapted(tiny_model, modules_to_save=["model.norm"]), rows(1), batch_tokens=64)


def test_refuses_an_adapter_on_the_head(tiny_model: Path) -> None:
    base = load_base(tiny_model, dtype="float32")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ModelError, match="lm_head has an adapter on the output head"):
        moments(model.eval(), rows(1), batch_tokens=64)


@pytest.mark.parametrize(("prompt", "answer"), [([7, 8], []), ([], [9]), ([], [])])
def test_refuses_an_example_with_nothing_to_score(
    tiny_model: Path, prompt: list[int], answer: list[int]
) -> None:
    with pytest.raises(DataError, match=f"example odd has {len(prompt)} prompt tokens"):
        moments(adapted(tiny_model), [*rows(2), TokenRow("odd", prompt, answer)], batch_tokens=64)


def test_a_forward_that_stood_before_stands_again(tiny_model: Path) -> None:
    """Libraries that move weights between devices put their own in a module's place."""
    model = adapted(tiny_model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    own = layer.forward
    layer.forward = own
    moments(model, rows(1), batch_tokens=64)
    assert vars(layer)["forward"] is own
