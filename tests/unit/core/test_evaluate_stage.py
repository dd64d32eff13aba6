"""Stage `evaluate`: generation is plain greedy decoding, and every prediction is kept."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_inputs import MODEL, files, run_stage, tiny_adapter, tiny_inputs

from lorapar_core.answers import HASH, TAGS
from lorapar_core.config import EvaluationConfig
from lorapar_core.evaluate import PREDICTIONS, end_tokens, generate, judge
from lorapar_core.evaluate import metrics as figures
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.parquet import read_table
from lorapar_core.statistics import wilson


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("evaluate"), tiny_model, examples=4)


def evaluate(out: Path, inputs: Mapping[str, Path], **changed: Any) -> Path:
    config = {
        "evaluation": {"max_new_tokens": 6, "batch_tokens": 300},
        "model": MODEL,
        "format": "sft",
        "answer_format": "hash",
    }
    needed = {role: inputs[role] for role in ("base", "adapter") if role in inputs}
    needed |= {"tokens": inputs["test_tokens"], "examples": inputs["test"]}
    return run_stage("evaluate", {**config, **changed}, needed, out)


def without_adapter(inputs: Mapping[str, Path]) -> dict[str, Path]:
    return {role: path for role, path in inputs.items() if role != "adapter"}


def plain_greedy(model: Any, prompt: list[int], new: int, eos: int) -> list[int]:
    """The most likely token, again and again: no batch, no padding, no cache."""
    ids = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == eos:
            break
    return ids[len(prompt) :]


def sharper(model: Any) -> Any:
    """Wider logits, so that rounding decides no token."""
    with torch.no_grad():
        model.lm_head.weight.mul_(30.0)
    return model


@pytest.mark.parametrize(
    ("attention", "batch_tokens"), [("sdpa", 1), ("sdpa", 120), ("sdpa", 8192), ("eager", 8192)]
)
def test_batched_generation_is_plain_greedy(
    tiny_model: Path, attention: str, batch_tokens: int
) -> None:
    model = sharper(load_base(tiny_model, dtype="float32", attention=attention))
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.padding_side == "left"
    generator = torch.Generator().manual_seed(11)
    prompts = [
        torch.randint(6, 440, (length,), generator=generator).tolist()
        for length in (1, 40, 7, 7, 23, 2)
    ]
    endless = [plain_greedy(model, prompt, 10, eos=-1) for prompt in prompts]
    # An end that some answers reach early, some late, and some never.
    places = {t: sum(t in row for row in endless) for row in endless for t in row[1:]}
    end = min(places, key=lambda t: (abs(places[t] - 3), t))
    assert 0 < places[end] < 6
    model.generation_config.eos_token_id = [end]  # as a chat model whose turns end so
    ends = end_tokens(model, tokenizer)
    assert ends == [tokenizer.eos_token_id, end]
    config = EvaluationConfig(max_new_tokens=10, batch_tokens=batch_tokens)
    found = generate(model, tokenizer, prompts, config, ends=ends, device="cpu")
    assert found == [row[: row.index(end) + 1] if end in row else row for row in endless]


def test_what_the_makers_recommend_for_sampling_has_no_part(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """transformers takes what a `GenerationConfig` leaves open from the model's own."""
    advised = tmp_path / "advised"
    shutil.copytree(inputs["base"], advised)
    advice = {
        "do_sample": True,
        "temperature": 0.5,
        "repetition_penalty": 1.9,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 4,
        "num_beams": 2,
        "eos_token_id": [2, 7, 8],
    }
    (advised / "generation_config.json").write_text(json.dumps(advice))
    for role in ("with", "without"):
        given = inputs if role == "with" else without_adapter(inputs)
        plain = evaluate(tmp_path / f"{role}.plain", given)
        told = evaluate(tmp_path / f"{role}.advised", {**given, "base": advised})
        assert files(told) == files(plain)


def test_every_prediction_is_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = evaluate(tmp_path / "out", without_adapter(inputs))
    assert set(files(out)) == {"metrics.json", "predictions.parquet"}
    test = read_table(inputs["test"])
    table = read_table(out / "predictions.parquet")
    assert list(table) == PREDICTIONS.names
    assert table["example_id"] == test["id"]
    assert table["prompt"] == test["prompt"]
    assert table["reference"] == test["reference"]
    model, tokenizer = (
        load_base(inputs["base"], dtype="float32"),
        load_tokenizer(inputs["base"]),
    )
    tokens = read_table(inputs["test_tokens"])
    rows = zip(tokens["example_id"], tokens["format"], tokens["prompt_ids"], strict=True)
    prompts = {i: prompt for i, form, prompt in rows if form == "sft"}
    for k, example_id in enumerate(table["example_id"]):
        answer = plain_greedy(model, prompts[example_id], 6, tokenizer.eos_token_id)
        assert table["completion"][k] == tokenizer.decode(answer, skip_special_tokens=True)
        assert table["tokens"][k] == len(answer)
    told = json.loads((out / "metrics.json").read_text())
    assert told["n"] == 6
    assert told["mean_tokens"] == pytest.approx(sum(table["tokens"]) / 6)
    assert told["finished_share"] == pytest.approx(sum(table["finished"]) / 6)
    for extraction in ("strict", "flexible"):
        right = sum(table[f"{extraction}_correct"])
        assert told[extraction]["correct"] == right
        assert told[extraction]["interval_95"] == pytest.approx(list(wilson(right, 6)))
    assert files(evaluate(tmp_path / "again", without_adapter(inputs))) == files(out)


def test_an_adapter_changes_the_answers(inputs: dict[str, Path], tmp_path: Path) -> None:
    strong = tiny_adapter(tmp_path / "strong", inputs["base"], init_std=1.0)
    answers = {
        name: read_table(evaluate(tmp_path / name, given) / "predictions.parquet")["completion"]
        for name, given in {
            "base": without_adapter(inputs),
            "adapter": {**inputs, "adapter": strong},
        }.items()
    }
    assert answers["base"] != answers["adapter"]


def test_the_format_chooses_the_prompts(inputs: dict[str, Path], tmp_path: Path) -> None:
    """GRPO's prompts are made others here, so the answers to them are others."""
    table = pq.read_table(inputs["test_tokens"])
    rows = table.to_pylist()
    for row in rows:
        if row["format"] == "grpo":
            row["prompt_ids"] = row["prompt_ids"][::-1]
    changed = tmp_path / "tokens.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), changed)
    said = {
        form: read_table(
            evaluate(tmp_path / form, {**inputs, "test_tokens": changed}, format=form)
            / "predictions.parquet",
            ["completion"],
        )["completion"]
        for form in ("sft", "grpo")
    }
    plain = evaluate(tmp_path / "plain", inputs, format="grpo") / "predictions.parquet"
    assert read_table(plain, ["completion"])["completion"] == said["sft"] != said["grpo"]


def test_right_and_wrong_answers_are_told_apart(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    said = {
        "both": ("8 apples.\n#### 8", "8"),
        "flexible only": ("There are 8", "8"),
        "neither": ("8 apples.\n#### 9", "8"),
        "number": ("#### 1,234.", "1234"),
        "empty": ("", "8"),
    }
    completions = [[*tokenizer(text)["input_ids"], 2] for text, _ in said.values()]
    completions[-1] = []
    examples = {name: (f"{name}?", reference) for name, (_, reference) in said.items()}
    ends = [tokenizer.eos_token_id]
    rows = judge(list(said), examples, completions, tokenizer, HASH, ends=ends)
    assert rows["strict_correct"] == [True, False, False, True, False]
    assert rows["flexible_correct"] == [True, True, False, True, False]
    assert rows["finished"] == [True, True, True, True, False]
    assert rows["completion"] == [text for text, _ in said.values()]
    assert rows["strict"][:3] == ["8", None, "9"]
    assert rows["flexible"] == ["8", "8", "9", "1234", ""]
    told = figures(rows)
    assert told["strict"]["accuracy"] == 0.4
    assert told["flexible"]["accuracy"] == 0.6
    tags = judge(
        ["a"],
        {"a": ("?", "8")},
        [tokenizer("<answer>8</answer>")["input_ids"]],
        tokenizer,
        TAGS,
        ends=ends,
    )
    assert tags["strict_correct"] == [True]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998, table I, method 3; and R's prop.test(correct = FALSE).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials)
    assert found == pytest.approx((low, high), abs=5e-5)
    # What defines the interval: at its ends the score test is just significant.
    for end in found:
        if 0 < end < 1:
            z = (successes / trials - end) / math.sqrt(end * (1 - end) / trials)
            assert abs(z) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, trials)
