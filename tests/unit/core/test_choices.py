"""How likely a choice is: the plain product of its tokens' chances, however it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_configs import SEVERAL
from tiny_inputs import tiny_adapter
from transformers import AutoModelForCausalLM

from lorapar_core import shared_prefix
from lorapar_core.choices import Span, choice_logprobs, few_places, shares, span_of
from lorapar_core.loading import attach_adapter, load_base, load_tokenizer

CLOSE = {"rel": 1e-5, "abs": 2e-5}


def plainly(model: Any, span: Span) -> float:
    """One row by itself, without a cache."""
    with torch.no_grad():
        ids = torch.tensor([[*span.row, span.tokens[-1]]])
        logprobs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    return sum(
        float(logprobs[place, token]) for place, token in zip(span.places, span.tokens, strict=True)
    )


def spans(seed: int, *, common: int, problems: int, vocabulary: int = 90) -> list[list[Span]]:
    """Choices of one to three tokens after rows of several lengths that begin alike."""
    draw = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> list[int]:
        return torch.randint(6, vocabulary, (count,), generator=draw).tolist()

    prefix, found = tokens(common), []
    for k in range(problems):
        context = [*prefix, *tokens(1 + 5 * k % 11)]
        choices = [tokens(1 + (k + c) % 3) for c in range(4)]
        found.append([Span((*context, *c[:-1]), len(context) - 1, c) for c in choices])
    return found


def scored(model: Any, asked: Sequence[Sequence[Span]], **how: Any) -> list[list[float]]:
    found = {}
    for batch in choice_logprobs(model, asked, device="cpu", **{"batch_tokens": 400, **how}):
        found.update(batch)
    return [[found[i, c] for c in range(len(choices))] for i, choices in enumerate(asked)]


@pytest.mark.parametrize(
    ("batch_tokens", "share"), [(1, True), (400, True), (4000, True), (400, False)]
)
def test_it_is_the_plain_product_of_chances(
    tiny_model: Path, tmp_path: Path, batch_tokens: int, share: bool
) -> None:
    model = attach_adapter(
        load_base(tiny_model, dtype="float32"),
        tiny_adapter(tmp_path / "adapter", tiny_model, init_std=0.5),
    ).eval()
    assert shares(model)
    asked = spans(1, common=30, problems=7)
    expected = [[plainly(model, span) for span in choices] for choices in asked]
    found = scored(model, asked, batch_tokens=batch_tokens, share=share)
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, **CLOSE)


@pytest.mark.parametrize("kind", [*SEVERAL])
def test_models_of_several_kinds(kind: str) -> None:
    """A model that keeps more, or less, than all keys and values shares nothing."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(SEVERAL[kind]).eval()
    assert shares(model) is (kind != "mistral, sliding window")
    asked = spans(2, common=9, problems=4)
    expected = [[plainly(model, span) for span in choices] for choices in asked]
    for row, wanted in zip(scored(model, asked), expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_what_is_common_goes_through_the_model_once(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = load_base(tiny_model, dtype="float32"), []
    plain = model.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        seen.append(tuple(inputs["input_ids"].shape))
        return plain(*args, **inputs)

    monkeypatch.setattr(model, "forward", forward)
    asked = spans(1, common=30, problems=7)
    scored(model, asked, batch_tokens=300)
    assert seen[0] == (1, 30)
    assert len(seen) > 2
    assert max(width for _, width in seen[1:]) < 30


@pytest.mark.parametrize("most", [1, 6, 1000])
def test_the_head_looks_at_few_places(most: int) -> None:
    places = [[3], [3], [4, 5], [5], [9], [9, 10, 11], [9]]
    parts = [*few_places([0, 1, 2, 3, 4, 5, 6], places, most=most)]
    assert [row for part in parts for row in part] == [0, 1, 2, 3, 4, 5, 6]
    for part in parts:
        looked = len(part) * len({place for row in part for place in places[row]})
        assert looked <= most or len(part) == 1
    assert len(parts) == {1: 7, 6: 4, 1000: 1}[most]


def test_a_prefix_ends_before_what_is_predicted(tiny_model: Path) -> None:
    """All choices of a lone problem begin alike: their common token is predicted all the same."""
    model = load_base(tiny_model, dtype="float32")
    context = list(range(10, 30))
    asked = [[Span((*context, 40), 19, [40, token]) for token in (41, 42)]]
    expected = [plainly(model, span) for span in asked[0]]
    assert scored(model, asked)[0] == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_stand_before_every_row(tiny_model: Path, kind: str) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    configs = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}
    config = configs[kind](task_type="CAUSAL_LM", num_virtual_tokens=3)
    torch.manual_seed(4)
    base = load_base(tiny_model, dtype="float32")
    bare = scored(base, spans(1, common=6, problems=2))
    model = get_peft_model(base, config).eval()
    assert not shares(model)
    asked = spans(1, common=6, problems=2)
    found = scored(model, asked)
    for choices, row in zip(asked, found, strict=True):
        for span, logprob in zip(choices, row, strict=True):
            ids = torch.tensor([[*span.row, span.tokens[-1]]])
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            own = logits[-ids.shape[1] :].double().log_softmax(-1)
            places = zip(span.places, span.tokens, strict=True)
            assert logprob == pytest.approx(sum(float(own[p, t]) for p, t in places), **CLOSE)
    assert found[0] != pytest.approx(bare[0], **CLOSE)


def test_a_continuation_keeps_its_own_tokens(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    span = span_of(tokenizer, "How many apples?\nAnswer:", " A")
    whole = tokenizer("How many apples?\nAnswer: A")["input_ids"]
    assert [*span.row[: span.place + 1], *span.tokens] == whole
    assert tokenizer.decode(span.tokens) == " A"
    with pytest.raises(ValueError, match="has no tokens of its own"):
        span_of(tokenizer, "How many?", "")


def test_the_common_prefix_leaves_every_row_a_token() -> None:
    assert shared_prefix.common_prefix([[1, 2, 3], [1, 2]]) == [1]
    assert shared_prefix.common_prefix([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5]]) == [1, 2]
    assert shared_prefix.common_prefix([[4, 5]]) == [4]
