"""A batch of prompts of different lengths is answered as each prompt is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from lorapar_core.config import PeftConfig
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.other_adapters import new
from lorapar_core.stopping_text import StopTexts
from lorapar_core.virtual_tokens import completions

KINDS = ("prompt-tuning", "p-tuning", "prefix-tuning", "ia3")
NEW = 8
ROWS = [[7, 8, 9, 10, 33, 40], [50], [61, 62], [*range(100, 117)]]


def model_of(tiny_model: Path, kind: str) -> Any:
    """With wider logits, so that rounding decides no token, and virtual tokens that matter."""
    base = load_base(tiny_model, dtype="float32")
    base.generation_config = GenerationConfig()
    with torch.no_grad():
        for weight in base.parameters():
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    section = PeftConfig.model_validate({"kind": kind, "virtual_tokens": 5})
    model: Any = new(base, section, seed=1).eval()
    if kind == "ia3":
        generator = torch.Generator().manual_seed(2)
        for name, weight in model.named_parameters():
            if "ia3_l" in name:
                weight.data += torch.randn(weight.shape, generator=generator)
    return model


def batch(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def greedy(model: Any, rows: list[list[int]]) -> list[list[int]]:
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    with torch.inference_mode():
        made: list[list[int]] = completions(model, *batch(rows), config).tolist()
    return made


def one_by_one(model: Any, row: list[int]) -> list[int]:
    """PEFT's own forward pass, as in training: no padding and no cache of ours."""
    ids = list(row)
    for _ in range(NEW):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)))
        ids.append(int(logits.logits[0, -1].argmax()))
    return ids[len(row) :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_answered_as_each_row_alone(tiny_model: Path, kind: str) -> None:
    model = model_of(tiny_model, kind)
    expected = [one_by_one(model, row) for row in ROWS]
    assert greedy(model, ROWS) == expected
    assert [greedy(model, [row])[0] for row in ROWS] == expected
    assert len({tuple(answer) for answer in expected}) == len(ROWS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_changes_the_answers(tiny_model: Path, kind: str) -> None:
    model = model_of(tiny_model, kind)
    adapted = [one_by_one(model, row) for row in ROWS]
    with model.disable_adapter():
        assert [one_by_one(model, row) for row in ROWS] != adapted


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_ends_a_row_in_a_batch_where_it_ends_it_alone(tiny_model: Path, kind: str) -> None:
    model, tokenizer = model_of(tiny_model, kind), load_tokenizer(tiny_model)
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    stop = tokenizer.decode(one_by_one(model, ROWS[0])[2:4])
    ended = []
    for rows in (ROWS, *([row] for row in ROWS)):
        watch = StopTexts(tokenizer, [stop])
        with torch.inference_mode():
            completions(model, *batch(rows), config, watch=watch)
        ended.append(watch.ended)
    assert ended[0].get(0) in (2, 3, 4), "it is in what the first row is answered with"
    assert ended[0] == {k: alone[0] for k, alone in enumerate(ended[1:]) if alone}
