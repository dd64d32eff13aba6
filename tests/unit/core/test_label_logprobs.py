"""The forward that computes the head at labels only, beside trl's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_configs import GPT2, SEVERAL, TINY, VOCABULARY
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    RecurrentGemmaConfig,
)
from trl.trainer.utils import add_fused_lm_head

from lorapar_core import label_logprobs
from lorapar_core.gradients import IGNORED
from lorapar_core.loading import load_base


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


OTHERS = {
    "logits softly capped": Gemma2Config(**TINY, final_logit_softcapping=30.0),
    "routers' logits": Qwen2MoeConfig(
        **TINY, moe_intermediate_size=16, num_experts=2, output_router_logits=True
    ),
    "RecurrentGemma's cap": RecurrentGemmaConfig(**TINY, lru_width=16, attention_window_size=8),
    "xLSTM's cap": Qwen2Config(**TINY, output_logit_soft_cap=30.0),
    "dynamic RoPE": LlamaConfig(**TINY, **rope("dynamic", factor=2.0)),
    "LongRoPE": LlamaConfig(
        **{**TINY, "max_position_embeddings": 64},
        **rope(
            "longrope",
            factor=4.0,
            original_max_position_embeddings=16,
            short_factor=[1.0] * 4,
            long_factor=[3.0] * 4,
        ),
    ),
}
Batch = dict[str, torch.Tensor]


def batch(*rows: tuple[str, int, int], left: bool = False) -> Batch:
    """Of (what the prompt is drawn by, its tokens, the answer's); answers differ.

    Padded on the right, or prompts on the left and answers on the right, as trl's GRPO has them.
    """
    widest = max(prompt for _, prompt, _ in rows)
    pieces = []
    for number, (name, prompt, answer) in enumerate(rows):
        asked = torch.randint(6, VOCABULARY, (prompt,), generator=generator(len(name) + ord(name)))
        answered = torch.randint(6, VOCABULARY, (answer,), generator=generator(1000 + number))
        pieces.append((widest - prompt if left else 0, asked, answered))
    width = max(gap + len(asked) + len(answered) for gap, asked, answered in pieces)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (gap, asked, answered) in enumerate(pieces):
        middle, end = gap + len(asked), gap + len(asked) + len(answered)
        ids[row, gap:end] = torch.cat([asked, answered])
        mask[row, gap:end] = 1
        labels[row, middle:end] = answered
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BATCHES = {
    "one row": batch(("a", 5, 7)),
    "padded": batch(("a", 5, 7), ("b", 2, 12), ("c", 9, 3), ("d", 1, 1)),
    "groups": batch(*(("a", 5, n) for n in (7, 1, 12)), *(("b", 9, n) for n in (3, 4)), left=True),
    "a group, and one alone": batch(("a", 5, 3), ("b", 3, 4), ("a", 5, 9), left=True),
    "prompts of one token": batch(("a", 1, 3), ("a", 1, 6), ("b", 4, 2), left=True),
}

ROWS_ALIKE = {
    name: tensor[:1].repeat(2, 1) for name, tensor in batch(("a", 5, 7), ("a", 5, 7)).items()
}


def adapted(config: Any) -> Any:
    """A random model of two layers with a random adapter, with trl's head."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config) if not isinstance(config, Path) else None
    base = base or load_base(config, dtype="float32")
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    add_fused_lm_head(base, temperature=0.7, outputs=("log_probs", "entropy", "is_top1"))
    return model


def both(config: Any) -> tuple[Any, Any]:
    """trl's and ours, of the same weights."""
    trls, ours = adapted(config), adapted(config)
    label_logprobs.install(ours.get_base_model(), temperature=0.7)
    return trls, ours


def result(model: Any, inputs: Batch) -> tuple[Any, torch.Tensor]:
    """Outputs, and the gradient of a loss in which every position has its own weight."""
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    weights = torch.linspace(-1, 2, outputs.log_probs.numel()).view_as(outputs.log_probs)
    (weights * outputs.log_probs + outputs.log_probs.exp()).sum().backward()
    gradient = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return outputs, torch.cat(gradient)


def assert_alike(trls: Any, ours: Any, inputs: Batch, *, rounding: float = 1e-5) -> None:
    (expected, slope), (found, our_slope) = result(trls, inputs), result(ours, inputs)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=rounding)
    assert torch.equal(found.label_mask, expected.label_mask)
    assert torch.equal(found.is_top1, expected.is_top1)
    for name in ("log_probs", "entropy"):
        theirs, found_values = getattr(expected, name), getattr(found, name)
        assert theirs.dtype == found_values.dtype
        assert torch.allclose(found_values, theirs, rtol=rounding, atol=10 * rounding), name
    assert slope.norm() > 0
    assert (our_slope - slope).norm() < 10 * rounding * slope.norm()


@contextmanager
def counted_tokens(model: Any) -> Iterator[list[int]]:
    """Tokens that each pass takes through the layers."""
    passes: list[int] = []

    def count(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        passes.append(inputs["input_ids"].numel())

    body = model.get_base_model().base_model
    handle = body.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


@pytest.fixture
def no_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """trl's head fails, so that what is compared with it can't be it."""

    def fail(*_: Any) -> Any:
        raise AssertionError("trl's head was asked")

    from trl.trainer import utils

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", fail)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=list(BATCHES))
@pytest.mark.parametrize("tokens", [1, 16, 768])
def test_all_as_trl(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, inputs: Batch, tokens: int
) -> None:
    monkeypatch.setattr(label_logprobs, "PASS_TOKENS", tokens)
    assert_alike(*both(tiny_model), inputs)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")  # peft's, of experts
@pytest.mark.parametrize("config", SEVERAL.values(), ids=list(SEVERAL))
@pytest.mark.parametrize("inputs", [BATCHES["padded"], BATCHES["groups"]], ids=["padded", "groups"])
def test_all_as_trl_in_other_models(config: Any, inputs: Batch) -> None:
    assert_alike(*both(copy.deepcopy(config)), inputs)


@pytest.mark.parametrize("config", OTHERS.values(), ids=list(OTHERS))
def test_models_that_keep_trls_forward(config: Any) -> None:
    model = adapted(copy.deepcopy(config)).get_base_model()
    before = model.forward
    label_logprobs.install(model, temperature=0.7)
    assert model.forward is before


def test_positions_are_fixed_layer_by_layer() -> None:
    """Gemma 3 has RoPE parameters for each kind of layer."""
    for kind, fixed in (("default", True), ("dynamic", False)):
        layers = {"full_attention": rope(kind)["rope_parameters"]}
        config = SimpleNamespace(rope_parameters=layers)
        model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda c=config: c))
        assert label_logprobs.has_fixed_positions(model) is fixed


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_learned_positions_count_from_the_prompts_first_token() -> None:
    """Those of the model on each row without padding; trl's are so without padding on the left."""
    trls, ours = both(copy.deepcopy(GPT2))
    assert_alike(trls.eval(), ours.eval(), BATCHES["padded"])
    inputs = BATCHES["groups"]
    found, expected = result(ours, inputs)[0], torch.zeros(inputs["labels"][:, 1:].shape)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        ids, labels = inputs["input_ids"][row, mask], inputs["labels"][row, mask]
        with torch.no_grad():
            logprobs = (ours(input_ids=ids[None]).logits[0] / 0.7).log_softmax(-1)
        labelled = labels[1:] != IGNORED
        values = logprobs[:-1].gather(1, ids[1:, None])[:, 0][labelled]
        expected[row, found.label_mask[row]] = values
    assert torch.allclose(found.log_probs, expected, atol=1e-5)
    assert not torch.allclose(result(trls, inputs)[0].log_probs, expected, atol=1e-3)


def test_a_trained_head_keeps_trls_forward(tiny_model: Path) -> None:
    model = adapted(tiny_model).get_base_model()
    before = model.forward
    model.get_output_embeddings().weight.requires_grad_(True)
    label_logprobs.install(model, temperature=0.7)
    assert model.forward is before


def without_a_label(inputs: Batch) -> Batch:
    labels = inputs["labels"].clone()
    labels[1] = IGNORED
    return {**inputs, "labels": labels}


def with_a_gap(inputs: Batch) -> Batch:
    mask = inputs["attention_mask"].clone()
    mask[0, 2] = 0
    return {**inputs, "attention_mask": mask}


def with_positions(inputs: Batch) -> Batch:
    ids = inputs["input_ids"]
    return {**inputs, "position_ids": torch.arange(ids.shape[1]).expand_as(ids)}


@pytest.mark.parametrize("change", [without_a_label, with_a_gap, with_positions])
def test_calls_that_keep_trls_forward(tiny_model: Path, change: Callable[[Batch], Batch]) -> None:
    trls, ours = both(tiny_model)
    inputs = change(BATCHES["padded"])
    assert torch.equal(result(ours, inputs)[1], result(trls, inputs)[1])


def test_trls_own_head_is_not_asked(tiny_model: Path, no_trl: None) -> None:
    trls, ours = both(tiny_model)
    assert result(ours, BATCHES["groups"])[1].norm() > 0
    with pytest.raises(AssertionError, match="trl's head was asked"):
        result(trls, BATCHES["groups"])


def test_a_common_prompt_is_computed_once(tiny_model: Path) -> None:
    _, ours = both(tiny_model)
    with counted_tokens(ours) as passes:
        result(ours, BATCHES["groups"])
    # Each prompt but its last token; then that one and all but the last answer token of each row.
    assert passes == [4, 7 + 1 + 12, 8, 3 + 4]


def test_a_common_beginning_is_computed_once(tiny_model: Path) -> None:
    """As a chat template's system turn, with another question in each row."""
    trls, ours = both(tiny_model)
    inputs = batch(("a", 7, 5), ("b", 9, 3), ("c", 8, 4))
    inputs["input_ids"][:, :6] = inputs["input_ids"][0, :6].clone()
    with counted_tokens(ours) as passes:
        assert_alike(trls, ours, inputs)
    assert passes == [6, 1 + 4 + 3 + 2 + 2 + 3]


def test_no_padding_is_computed(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_logprobs, "PASS_TOKENS", 30)
    _, ours = both(tiny_model)
    with counted_tokens(ours) as passes:
        result(ours, BATCHES["padded"])
    assert passes == [11 + 13, 11 + 1]


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=list(BATCHES))
def test_padded_passes_are_as_trls_too(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, inputs: Batch
) -> None:
    monkeypatch.setattr(label_logprobs, "packs", lambda _: False)
    assert_alike(*both(tiny_model), inputs)


def test_padded_passes_are_of_like_lengths(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_logprobs, "packs", lambda _: False)
    monkeypatch.setattr(label_logprobs, "PASS_TOKENS", 30)
    _, ours = both(tiny_model)
    with counted_tokens(ours) as passes:
        result(ours, BATCHES["padded"])
    assert passes == [2 * 11, 2 * 13]  # of 1 and 11, and of 11 and 13; at once it were 4 * 13


def test_no_random_number_is_drawn(tiny_model: Path) -> None:
    _, ours = both(tiny_model)
    before = torch.get_rng_state()
    result(ours, BATCHES["groups"])
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_share_no_dropout(tiny_model: Path) -> None:
    _, ours = both(tiny_model)
    base = ours.get_base_model()
    assert label_logprobs.shares(base)
    base.model.layers[0].self_attn.q_proj.lora_dropout["default"] = torch.nn.Dropout(0.1).train()
    assert not label_logprobs.shares(base)
    assert label_logprobs.shares(base.eval())


@pytest.mark.parametrize(
    "config",
    [
        OPTConfig(**{**TINY, "word_embed_proj_dim": 16, "ffn_dim": 32, "dropout": 0.5}),
        LlamaConfig(**TINY, attention_dropout=0.5),
    ],
    ids=["opt", "llama"],
)
def test_rows_share_no_dropout_that_no_module_tells(config: Any) -> None:
    _, ours = both(copy.deepcopy(config))
    base = ours.get_base_model().train()
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in base.modules())
    assert not label_logprobs.shares(base)
    assert label_logprobs.shares(base.eval())
    found = result(ours.train(), ROWS_ALIKE)[0].log_probs
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    found = result(ours.eval(), ROWS_ALIKE)[0].log_probs
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_dropout_of_other_heads_is_none_of_ours() -> None:
    config = GPTNeoXConfig(**{**TINY, "num_key_value_heads": 2}, classifier_dropout=0.1)
    _, ours = both(config)
    assert label_logprobs.shares(ours.get_base_model().train())


def test_with_activation_checkpointing(tiny_model: Path) -> None:
    trls, ours = both(tiny_model)
    ours.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    ours.get_base_model().enable_input_require_grads()
    ours.train()
    assert_alike(trls, ours, BATCHES["groups"])


def test_in_bfloat16(tiny_model: Path) -> None:
    trls, ours = both(tiny_model)
    trls.get_base_model().to(torch.bfloat16)
    ours.get_base_model().to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, slope), (found, our_slope) = (result(m, BATCHES["groups"]) for m in (trls, ours))
    assert torch.allclose(found.log_probs, expected.log_probs, atol=0.15)
    assert (our_slope - slope).norm() < 0.03 * slope.norm()
    assert found.log_probs.dtype == expected.log_probs.dtype


def test_other_calls_are_untouched(tiny_model: Path) -> None:
    trls, ours = both(tiny_model)
    ids = BATCHES["padded"]["input_ids"]
    assert torch.equal(ours(input_ids=ids).logits, trls(input_ids=ids).logits)
