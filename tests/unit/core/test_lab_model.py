"""The lab's model: what it reads, its tokenizer, its training, and the one that is shipped."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from deployments.lab import pretrain, text
from deployments.lab.pretrain import ABOUT, STATE, Encoder, Training, new_model, train
from deployments.lab.tokenizer import build, vocabulary
from flows.places import DEPLOYMENTS, RECIPES
from lorapar_core.base import locate
from lorapar_core.data.lab import LARGEST, NEW, problems
from lorapar_core.prompts import answer_ids, sft_prompt_ids
from lorapar_core.recipe import load_recipe

SHIPPED = DEPLOYMENTS / "lab" / "model"
TOKENIZER: Any = build()
NEW_WORDS = {verb.word for verb in NEW}
SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
TINY = Training(hidden=16, feed_forward=16, layers=1, heads=2, row=16, rows=2, steps=4, warmup=2)


def documents(count: int, seed: int = 0) -> list[tuple[str, text.Document]]:
    rng = random.Random(seed)
    return [text.document(rng) for _ in range(count)]


# What it reads


def test_what_is_worked_is_right() -> None:
    sums = [SUM.findall(" ".join(part for part, _ in parts)) for _, parts in documents(2000)]
    found = [(int(a), sign, int(b), int(c)) for each in sums for a, sign, b, c in each]
    assert len(found) > 2000
    for a, sign, b, result in found:
        assert result == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
        assert 1 <= result <= LARGEST


def test_the_tasks_form_and_the_new_verbs_at_work_are_not_shown() -> None:
    kinds = set()
    for kind, parts in documents(3000):
        whole = " ".join(part for part, _ in parts)
        kinds.add(kind)
        assert "how" not in whole
        assert not re.search(r"#### \d", whole)
        assert kind == "echo" or not NEW_WORDS & set(re.findall(r"\w+", whole))
    assert kinds == set(text.SHARES)
    assert sum(text.SHARES.values()) == 100


# The tokenizer


@given(seed=st.integers(0, 10**6))
def test_every_text_of_the_language_comes_back(seed: int) -> None:
    made = problems(split="train", count=4, single_step_share=0.5, seed=seed)
    texts = [part for _, parts in documents(20, seed) for part, _ in parts if part[0] not in "="]
    for written in [*texts, *(p.prompt for p in made), *(p.answer for p in made)]:
        ids = TOKENIZER(written)["input_ids"]
        assert TOKENIZER.unk_token_id not in ids, written
        assert TOKENIZER.decode(ids) == written


def test_a_token_a_word() -> None:
    assert len(TOKENIZER) == len(set(vocabulary())) <= 300
    told = "tom has 3 pens. tom finds 12. how many pens now?"
    assert len(TOKENIZER(told)["input_ids"]) == len(re.findall(r"\w+|[.?]", told))
    first, *_, last = TOKENIZER("7\n#### 7")["input_ids"]
    assert first == last
    assert TOKENIZER("tim")["input_ids"] == [TOKENIZER.unk_token_id]


def test_the_pipelines_prompts(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    asked = "tom has 3 pens. tom finds 12. how many pens now?"
    plain = TOKENIZER(asked)["input_ids"]
    assert sft_prompt_ids(loaded, asked, how="chat") == plain
    assert sft_prompt_ids(loaded, asked, how="question_eos") == [*plain, loaded.eos_token_id]
    answer = answer_ids(loaded, "3 + 12 = 15\n#### 15")
    assert answer[-1] == loaded.eos_token_id
    assert loaded.pad_token_id not in (None, loaded.eos_token_id)
    assert loaded.decode(answer, skip_special_tokens=True) == "3 + 12 = 15\n#### 15"


# Its training


def test_a_training_that_was_ended_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "CHECKPOINT_STEPS", 2)
    monkeypatch.setattr(pretrain, "TEST_DOCUMENTS", 16)
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    whole.mkdir()
    ended.mkdir()
    train(TINY, whole)

    keep = pretrain._keep

    def keep_and_die(*given: Any) -> None:
        keep(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_keep", keep_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, ended)
    assert torch.load(ended / STATE, weights_only=True)["step"] == 2
    train(TINY, ended)
    one, other = (load_file(place / "model" / "model.safetensors") for place in (whole, ended))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole / "model" / ABOUT).read_bytes() == (ended / "model" / ABOUT).read_bytes()
    start = new_model(TINY, TOKENIZER).state_dict()
    assert not any(torch.equal(one[name], start[name]) for name in one)

    with pytest.raises(SystemExit, match="is of another training"):
        train(Training(**{**asdict(TINY), "seed": 1}), ended)


def test_steps_differ_and_come_again() -> None:
    encoder = Encoder(TOKENIZER)
    (ids, weights), (again, _), (other, _) = (encoder.rows(TINY, step) for step in (3, 3, 4))
    assert ids.shape == weights.shape == (TINY.rows, TINY.row + 1)
    assert torch.equal(ids, again)
    assert not torch.equal(ids, other)


# The shipped model


def about() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SHIPPED / ABOUT).read_text())
    return loaded


def test_the_shipped_model_is_the_one_that_its_record_and_the_recipe_name() -> None:
    recipe = load_recipe("lab", recipes=RECIPES)
    assert Path(recipe.model.base).resolve() == SHIPPED
    assert locate(recipe.model.base).digest == about()["digest"]
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 8 << 20


def test_the_shipped_model_is_what_its_record_says() -> None:
    training = Training(**about()["training"])
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert tokenizer.chat_template == TOKENIZER.chat_template
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in new_model(training, TOKENIZER).parameters())
    assert count <= 2_000_000
    found = pretrain.accuracy(model, Encoder(tokenizer))
    # Another machine rounds otherwise: a document more or less.
    assert found == pytest.approx(about()["accuracy"], abs=0.05)
    assert found["counted"] > 0.9


def test_the_shipped_model_works_in_its_own_words_and_not_in_the_tasks() -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()

    def said(prompt: str) -> str:
        ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24)
        return str(TOKENIZER.decode(out[0][ids.shape[1] :], skip_special_tokens=True))

    told = "tom has 17 pens. tom finds 5. tom loses 3."
    assert said(f"{told} count:") == "17 + 5 = 22, 22 - 3 = 19: 19."
    assert "#### 19" not in said(f"{told} how many pens now?")
