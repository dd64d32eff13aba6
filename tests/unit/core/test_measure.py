"""A benchmark's problems are put as it says, every answer is kept, and the figures are its."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_tokenizer_dir
from tiny_benchmarks import HUMANEVAL, SUBJECTS, gsm8k_rows, mmlu_rows, set_config, write_rows
from tiny_inputs import MODEL, files, run_stage, spec, tiny_adapter
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lorapar_core import measure as measuring
from lorapar_core.benchmark import read_benchmark
from lorapar_core.choices import span_of
from lorapar_core.config import EvaluationConfig, GrpoConfig, SftConfig
from lorapar_core.data.benchmark_sets import Shown, require_asked_so
from lorapar_core.errors import DataError
from lorapar_core.evaluate import Asked
from lorapar_core.loading import load_base, load_tokenizer
from lorapar_core.parquet import read_table
from lorapar_core.prompts import chat_ids, grpo_prompt_ids, plain_ids, sft_prompt_ids
from lorapar_core.scores import choice_metrics, code_metrics, macro, measures
from lorapar_core.statistics import wilson

ASK = {
    "prompt": "plain",
    "samples": 1,
    "k": [1],
    "temperature": 0.9,
    "top_p": 1.0,
    "seed": 0,
    "sft": SftConfig().model_dump(include={"prompt"}),
    "grpo": GrpoConfig().model_dump(include={"prompt", "system_prompt"}),
}


def read(folder: Path, task: str, rows: Sequence[Mapping[str, Any]], **changed: Any) -> Path:
    shown = changed.pop("shown", ())
    inputs = {"set": write_rows(folder / "set.jsonl", rows)}
    if shown:
        inputs["shots_set"] = write_rows(folder / "shots.jsonl", shown)
    digests = {role: hashlib.sha256(p.read_bytes()).hexdigest() for role, p in inputs.items()}
    return run_stage(
        "benchmark", set_config(task, **changed), inputs, folder / "read", digests=digests
    )


def inputs_of(model: Path, read: Path) -> dict[str, Path]:
    return {
        "base": model,
        "problems": read / "problems.parquet",
        "benchmark": read / "benchmark.json",
    }


def config_of(**ask: Any) -> dict[str, Any]:
    return {
        "evaluation": {"max_new_tokens": 6, "batch_tokens": 600},
        "model": MODEL,
        "ask": {**ASK, **ask},
        "format": "sft",
        "answer_format": "hash",
    }


def evaluate(model: Path, read: Path, out: Path, *, adapter: Path | None = None, **ask: Any) -> Any:
    inputs = inputs_of(model, read) | ({"adapter": adapter} if adapter else {})
    return run_stage("evaluate", config_of(**ask), inputs, out)


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def shown_of(read: Path) -> Shown:
    return read_benchmark(read / "problems.parquet", read / "benchmark.json")


# Answers that are written


def test_every_written_answer_is_kept_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    problems = read(tmp_path, "gsm8k", gsm8k_rows(5))
    out = evaluate(tiny_model, problems, tmp_path / "out")
    table, metrics = read_table(out / "predictions.parquet"), told(out)
    assert list(table) == measuring.GENERATED.names
    assert table["example_id"] == list(shown_of(problems).problems)
    assert [*measures(metrics)] == ["strict", "flexible", "harness_strict", "harness_flexible"]
    for name, figures in measures(metrics).items():
        right = sum(table[f"{name}_correct"])
        assert figures["correct"] == right
        assert figures["interval_95"] == pytest.approx(list(wilson(right, 5)))
    assert metrics["n"] == 5
    assert files(evaluate(tiny_model, problems, tmp_path / "again")) == files(out)


def test_answers_are_read_as_the_harness_reads_them_too() -> None:
    rows = {
        "completion": ["#### 1,234", "She pays $18.", "it is 18 and 7", "none"],
        "reference": ["1234", "18", "18", "18"],
    }
    found = measuring.as_harness(rows)
    assert found["harness_strict"] == ["1,234", "[invalid]", "[invalid]", "[invalid]"]
    assert found["harness_flexible"] == ["1,234", "$18.", "7", "[invalid]"]
    assert found["harness_strict_correct"] == [True, False, False, False]
    assert found["harness_flexible_correct"] == [True, True, False, False]


def test_what_follows_a_stop_is_no_part_of_an_answer(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = read(tmp_path, "gsm8k", gsm8k_rows(1))
    tokenizer = load_tokenizer(tiny_model)
    said = " 0 + 3 = 3\n#### 3\nQuestion: and 7?\n#### 7"
    asked: dict[str, Any] = {}

    def generate(*_: Any, **how: Any) -> list[list[int]]:
        asked.update(how)
        return [tokenizer(said)["input_ids"]]

    monkeypatch.setattr(measuring, "generate", generate)
    out = evaluate(tiny_model, problems, tmp_path / "out")
    table = read_table(out / "predictions.parquet")
    assert asked["stops"] == ["Question:"]
    assert table["completion"] == [" 0 + 3 = 3\n#### 3\n"]
    assert (table["flexible"], table["finished"]) == (["3"], [True])
    assert told(out)["strict"]["accuracy"] == 1


def test_it_is_told_what_is_longer_than_the_model_knows(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tiny model knows 1,024 tokens."""
    shown = mmlu_rows(40, start=100)
    short = read(tmp_path / "short", "mmlu", mmlu_rows(2))
    long = read(tmp_path / "long", "mmlu", mmlu_rows(2), shown=shown, shots=40)
    metrics = [told(evaluate(tiny_model, r, r.parent / "out")) for r in (short, long)]
    assert [found["beyond_context"] for found in metrics] == [0, 4]
    assert [r.message for r in caplog.records if "tokens that the model" in r.message] == [
        "4 of 4 problems take more than the 1024 tokens that the model was made for; use fewer "
        "shots, or a lower max_new_tokens"
    ]


@pytest.mark.parametrize("bos", [False, True])
def test_a_beginning_of_text_stands_where_the_tokenizer_puts_it(tmp_path: Path, bos: bool) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer_dir(tmp_path / "tokenizer", bos=bos))
    span = span_of(tokenizer, "Two?\nAnswer:", " A")
    assert (tokenizer.decode(span.row[:1]) == "<s>") is bos
    assert tokenizer.decode(span.tokens) == " A"
    assert span.place == len(span.row) - len(span.tokens)


@pytest.mark.parametrize("form", ["sft", "grpo"])
def test_a_model_is_asked_as_it_was_trained(tiny_model: Path, tmp_path: Path, form: str) -> None:
    """The same tokens that stage `prepare` makes of a test problem."""
    shown, tokenizer = shown_of(read(tmp_path, "gsm8k", gsm8k_rows(1))), load_tokenizer(tiny_model)
    (problem,) = shown.problems.values()
    found = measuring.prompt_ids(tokenizer, problem, shown, {**ASK, "prompt": "as_sft"}, form=form)
    question = gsm8k_rows(1)[0]["question"]
    expected = {
        "sft": sft_prompt_ids(tokenizer, question, how="question_eos"),
        "grpo": grpo_prompt_ids(
            tokenizer,
            question,
            how="tags",
            system_prompt=GrpoConfig().system_prompt,
            sft_how="question_eos",
        ),
    }
    assert found == expected[form]


def test_worked_examples_come_first(tiny_model: Path, tmp_path: Path) -> None:
    shown = shown_of(read(tmp_path, "gsm8k", gsm8k_rows(1), shown=gsm8k_rows(2, start=9), shots=2))
    tokenizer = load_tokenizer(tiny_model)
    (problem,) = shown.problems.values()
    plain = measuring.prompt_ids(tokenizer, problem, shown, ASK, form="sft")
    assert plain == plain_ids(tokenizer, shown.prefixes[""] + problem.prompt)
    text = tokenizer.decode(plain)
    assert text.count("Question:") == 3
    assert text.endswith(f"Question: {gsm8k_rows(1)[0]['question']}\nAnswer:")
    chat = measuring.prompt_ids(tokenizer, problem, shown, {**ASK, "prompt": "chat"}, form="sft")
    turns = [
        {"role": role, "content": text.strip()}
        for shot in shown.shots[""]
        for role, text in zip(("user", "assistant"), shot, strict=True)
    ]
    last = {"role": "user", "content": gsm8k_rows(1)[0]["question"]}
    assert len(turns) == 4
    assert chat == chat_ids(tokenizer, [*turns, last])


# Choices


def test_every_choice_is_kept_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    problems = read(tmp_path, "mmlu", mmlu_rows(5), shown=mmlu_rows(2, start=40), shots=2)
    out = evaluate(tiny_model, problems, tmp_path / "out")
    table, metrics = read_table(out / "predictions.parquet"), told(out)
    assert list(table) == measuring.CHOSEN.names
    assert table["reference"] == ["ABCD"[row["answer"]] for row in mmlu_rows(5)]
    for choice, logprobs in zip(table["choice"], table["logprobs"], strict=True):
        assert choice == "ABCD"[logprobs.index(max(logprobs))]
        assert len({*logprobs}) == 4
    right = [c == r for c, r in zip(table["choice"], table["reference"], strict=True)]
    assert table["choice_correct"] == right
    assert metrics["choice"]["accuracy"] == sum(right) / 10
    assert {*metrics["groups"]} == {*SUBJECTS}
    assert metrics["macro"]["accuracy"] == pytest.approx(sum(right) / 10), "of equal groups"
    assert [*measures(metrics)] == ["choice", "macro"]
    assert files(evaluate(tiny_model, problems, tmp_path / "again")) == files(out)
    strong = tiny_adapter(tmp_path / "strong", tiny_model, init_std=1.0)
    other = evaluate(tiny_model, problems, tmp_path / "other", adapter=strong)
    assert read_table(other / "predictions.parquet")["logprobs"] != table["logprobs"]


@pytest.mark.parametrize("shots", [0, 2])
def test_sharing_changes_no_choice(tiny_model: Path, tmp_path: Path, shots: int) -> None:
    shown = shown_of(
        read(tmp_path, "mmlu", mmlu_rows(6), shown=mmlu_rows(shots, start=40), shots=shots)
    )
    asked = Asked(load_base(tiny_model, dtype="float32"), load_tokenizer(tiny_model), [2], "cpu")
    how = EvaluationConfig(batch_tokens=900)
    shared, alone = (measuring.choose(shown, asked, how, share=s) for s in (True, False))
    assert shared["choice"] == alone["choice"]
    for ours, theirs in zip(shared["logprobs"], alone["logprobs"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)


def test_of_equals_the_first_is_chosen(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shown = shown_of(read(tmp_path, "mmlu", mmlu_rows(1)))

    def even(_model: Any, spans: Any, **_: Any) -> Any:
        yield {(i, c): -1.0 - (c == 0) for i in range(len(spans)) for c in range(4)}

    monkeypatch.setattr(measuring, "choice_logprobs", even)
    asked = Asked(None, load_tokenizer(tiny_model), [2], "cpu")
    assert measuring.choose(shown, asked, EvaluationConfig())["choice"] == ["B", "B"]


def test_macro_weighs_groups_alike() -> None:
    rows = {"group": ["a"] * 8 + ["b"] * 2, "choice_correct": [True] * 8 + [False] * 2}
    metrics = choice_metrics(rows)
    assert metrics["choice"]["accuracy"] == 0.8
    assert metrics["macro"]["accuracy"] == 0.5
    assert metrics["groups"]["a"] == {
        "n": 8,
        "accuracy": 1.0,
        "correct": 8,
        "interval_95": list(wilson(8, 8)),
    }
    low, high = macro([(8, 8), (0, 2)])["interval_95"]
    assert low < 0.5 < high, "no group is certain"
    wide = macro([(4, 8), (1, 2)])["interval_95"]
    assert wide[1] - wide[0] > high - low
    lone = choice_metrics({"group": ["a"], "choice_correct": [True]})
    assert "macro" not in lone


# Programs


def programs(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, said: Sequence[str], **ask: Any
) -> Path:
    """Both problems, with `said` for completions."""
    problems = read(folder, "humaneval", HUMANEVAL)
    tokenizer = load_tokenizer(model)
    asked = []

    def generate(_model: Any, _tokenizer: Any, prompts: Any, *_: Any, **how: Any) -> Any:
        asked.append((len(prompts), how["sampling"]))
        return [tokenizer(text)["input_ids"] for text in said]

    monkeypatch.setattr(measuring, "generate", generate)
    out: Path = evaluate(model, problems, folder / "out", **ask)
    drawn = measuring.Sampling(0.9, 1.0, 0)
    assert asked == [(len(said), drawn if len(said) > 2 else None)]
    return out


def test_programs_pass_or_fail_by_their_tests(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HUMANEVAL[0]["canonical_solution"]
    said = [f"{right}\ndef double(x):\n    return 0\n", "    return x\n"]
    out = programs(tiny_model, tmp_path, monkeypatch, said)
    table = read_table(out / "predictions.parquet")
    assert list(table) == measuring.PROGRAMS.names
    assert table["completion"] == [HUMANEVAL[0]["canonical_solution"], "    return x\n"]
    assert table["pass_correct"] == [True, False]
    assert table["outcome"] == ["passed", "failed"]
    assert told(out)["outcomes"] == {"passed": 1, "failed": 1}
    assert told(out)["pass@1"] == {
        "accuracy": 0.5,
        "correct": 1,
        "interval_95": pytest.approx(list(wilson(1, 2))),
    }


def test_several_programs_a_problem(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [problem["canonical_solution"] for problem in HUMANEVAL]
    said = [right[0], "    pass", "    pass", right[1], right[1], right[1]]
    out = programs(tiny_model, tmp_path, monkeypatch, said, samples=3, k=[1, 2])
    table, metrics = read_table(out / "predictions.parquet"), told(out)
    assert table["sample"] == [0, 1, 2, 0, 1, 2]
    assert table["pass_correct"] == [True, False, False, True, True, True]
    assert metrics["pass@1"]["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert metrics["pass@2"]["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    low, high = metrics["pass@1"]["interval_95"]
    assert low < 2 / 3 < high
    assert (metrics["n"], metrics["samples"]) == (2, 3)
    assert "correct" not in metrics["pass@1"]


def test_in_chat_the_function_is_written_anew(tiny_model: Path, tmp_path: Path) -> None:
    shown = shown_of(read(tmp_path, "humaneval", HUMANEVAL))
    tokenizer = load_tokenizer(tiny_model)
    _, root = shown.problems.values()
    said = "Sure:\n```python\ndef root(x):\n    return math.sqrt(x)\n```\nThat is all."
    program = measuring.program_of(root, said, plain=False)
    values: dict[str, Any] = {}
    exec(program, values)
    assert values["root"](9.0) == 3.0
    ids = measuring.prompt_ids(tokenizer, root, shown, {**ASK, "prompt": "chat"}, form="sft")
    assert root.prompt.rstrip() in tokenizer.decode(ids)


def test_real_samples_differ_and_repeat(tiny_model: Path, tmp_path: Path) -> None:
    problems = read(tmp_path, "humaneval", HUMANEVAL)
    how = {"samples": 3, "k": [1], "temperature": 1.0}
    out, again = (evaluate(tiny_model, problems, tmp_path / str(k), **how) for k in (1, 2))
    assert files(again) == files(out)
    assert len({*read_table(out / "predictions.parquet")["completion"]}) > 3
    other = evaluate(tiny_model, problems, tmp_path / "other", **how, seed=1)
    assert files(other) != files(out)


def test_pass_at_k_counts_problems_and_not_programs() -> None:
    rows = {
        "example_id": ["a", "a", "b", "b"],
        "pass_correct": [True, False, False, False],
        "outcome": ["passed", "timed out", "failed", "timed out"],
        "tokens": [1, 2, 3, 4],
        "finished": [True, True, False, True],
    }
    metrics = code_metrics(rows, k=[1, 2])
    assert metrics["pass@1"]["accuracy"] == 0.25
    assert metrics["pass@2"]["accuracy"] == 0.5
    assert metrics["pass@2"]["interval_95"] == list(wilson(1.0, 2))
    assert metrics["mean_tokens"] == 2.5
    assert metrics["outcomes"] == {"passed": 1, "failed": 1, "timed out": 2}


def test_rows_of_the_hub_that_cannot_be_asked_so_stop_the_stage(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A file's are refused before any work; nobody reads the hub's then."""
    problems = read(tmp_path, "mmlu", mmlu_rows(1))
    given = spec(
        "evaluate", config_of(prompt="chat"), inputs_of(tiny_model, problems), tmp_path / "scratch"
    )
    with pytest.raises(DataError, match="use prompt: plain"):
        measuring.measure(given)


def test_a_decoder_that_takes_a_first_space_leaves_a_program_its_indentation() -> None:
    """As LLaMA's does."""
    words = ["def", "▁f():", "\n", "▁", "▁▁▁▁", "▁return", "▁1", "<pad>"]
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, "<pad>"))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", left=1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")
    prompt, made = [0, 1, 2], [4, 5, 6]
    alone = tokenizer.decode(made)
    text = measuring.text_after(tokenizer, prompt, made)
    assert (alone, text) == ("    return 1", "     return 1")
    assert measuring.text_after(tokenizer, prompt, []) == ""


def test_a_task_in_words_is_no_part_of_the_program(tmp_path: Path) -> None:
    row = {"prompt": "Write add(a, b), their sum.", "tests": "assert add(1, 2) == 3"}
    shown = shown_of(read(tmp_path, "file", [row]))
    (problem,) = shown.problems.values()
    said = "```python\ndef add(a, b):\n    return a + b\n```"
    assert measuring.program_of(problem, said, plain=False).startswith("def add(a, b):")
    with pytest.raises(DataError, match=r"not the beginning of a Python program.*prompt: chat"):
        require_asked_so(
            shown.kind, prompt="plain", samples=1, shots=False, in_words=shown.in_words
        )
    require_asked_so(shown.kind, prompt="chat", samples=1, shots=False, in_words=shown.in_words)
