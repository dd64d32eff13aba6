"""An answer ends at a text, wherever that begins or ends in a token, and whoever is beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorapar_core.config import EvaluationConfig
from lorapar_core.evaluate import Sampling, generate
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.stopping_text import StopTexts, before_stop


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("a\nb", ["\n"], ("a", True)),
        ("a b c", ["c", "b"], ("a ", True)),
        ("", ["x"], ("", False)),
        ("abc", [], ("abc", False)),
        ("xab", ["xa", "x"], ("", True)),
    ],
)
def test_the_first_stop_counts(text: str, stops: list[str], expected: tuple[str, bool]) -> None:
    assert before_stop(text, stops) == expected


def test_it_sees_a_stop_across_tokens(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = tokenizer("How many 1 2 3 4", return_tensors="pt")["input_ids"]
    prompt = tokenizer("How", return_tensors="pt")["input_ids"].shape[1]
    watch = StopTexts(tokenizer, ["2 3"], start=prompt)
    ended = [
        bool(watch(ids[:, : prompt + k], None)[0]) for k in range(1, ids.shape[1] - prompt + 1)
    ]
    length = ended.index(True) + 1
    assert tokenizer.decode(ids[0, : prompt + length]).endswith("2 3")
    assert all(ended[length - 1 :])
    assert watch.ended == {0: length}


def test_the_prompt_ends_nothing(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = tokenizer("Question: 1Question:", return_tensors="pt")["input_ids"]
    longer = torch.cat([ids, torch.tensor([[9]])], 1)
    assert not StopTexts(tokenizer, ["Question:"], start=ids.shape[1])(longer, None).any()


def test_each_row_ends_by_itself(tiny_model: Path) -> None:
    model, tokenizer = load_base(tiny_model, dtype="float32"), load_tokenizer(tiny_model)
    draw = torch.Generator().manual_seed(7)
    prompts = [
        torch.randint(6, 440, (length,), generator=draw).tolist() for length in (3, 9, 4, 12, 6)
    ]
    how = EvaluationConfig(max_new_tokens=24, batch_tokens=4000)
    endless = generate(model, tokenizer, prompts, how, ends=[2], device="cpu")
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in endless]
    # What some answers hold early on, some late, and some not at all.
    pieces = {text[k : k + 2] for text in texts for k in range(2, len(text) - 2)}
    stop = min(pieces, key=lambda piece: (abs(sum(piece in text for text in texts) - 2), piece))
    assert 0 < sum(stop in text for text in texts) < 5
    for batch_tokens in (4000, 1):
        how = EvaluationConfig(max_new_tokens=24, batch_tokens=batch_tokens)
        found = generate(model, tokenizer, prompts, how, ends=[2], device="cpu", stops=[stop])
        for row, full, text in zip(found, endless, texts, strict=True):
            assert row == full[: len(row)]
            said, stopped = before_stop(tokenizer.decode(row, skip_special_tokens=True), [stop])
            assert stopped is (stop in text)
            assert said == before_stop(text, [stop])[0]
            if stopped:
                shorter = tokenizer.decode(row[:-1], skip_special_tokens=True)
                assert stop not in shorter, "no token after the one that completes it"
            else:
                assert row == full


def test_drawn_answers_repeat_with_the_seed(tiny_model: Path) -> None:
    model, tokenizer = load_base(tiny_model, dtype="float32"), load_tokenizer(tiny_model)
    how = EvaluationConfig(max_new_tokens=8, batch_tokens=200)
    prompts = [[9, 10, 11]] * 6

    def drawn(seed: int, **changed: float) -> list[list[int]]:
        sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, **changed}, seed=seed)
        return generate(model, tokenizer, prompts, how, ends=[2], device="cpu", sampling=sampling)

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({*map(tuple, drawn(1))}) == 6, "each draws its own"
    greedy = generate(model, tokenizer, prompts, how, ends=[2], device="cpu")
    assert drawn(1, temperature=1e-4) == greedy
    assert drawn(1, top_p=1e-6) == greedy
