"""Stage `evaluate`: greedy answers to the test problems, and how many are right.

Prompts are padded on the left and batched by length. Two extractions are reported apart: *strict*
(the number after ####, or in the answer tag) and *flexible* (the last number). Every prediction is
kept. The problems are those of the recipe's own test set; where a benchmark's are given instead,
`measure` asks and judges them.

config: model, evaluation, format (`sft` or `grpo`: which prompts), answer_format. An `adapter`
input is optional. Writes `metrics.json` (accuracies with Wilson 95 % intervals) and
`predictions.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lorapar_core import events
from lorapar_core.answers import AnswerFormat, answer_format, is_right
from lorapar_core.batches import batches
from lorapar_core.config import EvaluationConfig, ModelConfig
from lorapar_core.examples import token_rows
from lorapar_core.parquet import read_table, write_table
from lorapar_core.process import device, reset_torch
from lorapar_core.spec import Spec
from lorapar_core.statistics import wilson
from lorapar_core.stopping_text import before_stop

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREDICTIONS = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("completion", pa.string()),
        ("strict", pa.string()),
        ("flexible", pa.string()),
        ("strict_correct", pa.bool_()),
        ("flexible_correct", pa.bool_()),
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
    ]
)


def run(spec: Spec, out: Path) -> None:
    if "problems" in spec.inputs:
        from lorapar_core.measure import measure

        rows, schema, figures = measure(spec)
    else:
        rows, schema, figures = _own_test(spec)
    write_table(out / "predictions.parquet", rows, schema)
    text = json.dumps(figures, indent=2, sort_keys=True)
    (out / "metrics.json").write_text(text + "\n")


def _own_test(spec: Spec) -> tuple[dict[str, list[Any]], pa.Schema, dict[str, Any]]:
    """Predictions, their schema, and what they come to."""
    config = EvaluationConfig.model_validate(spec.config["evaluation"])
    ids, prompts, examples = _problems(spec)
    asked = load_asked(spec)
    completions = generate(
        asked.model, asked.tokenizer, prompts, config, ends=asked.ends, device=asked.device
    )
    form = answer_format(spec.config["answer_format"])
    rows = judge(ids, examples, completions, asked.tokenizer, form, ends=asked.ends)
    return rows, PREDICTIONS, metrics(rows)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked: a base, perhaps with an adapter."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    ends: list[int]
    """Tokens that end an answer."""
    device: str


def load_asked(spec: Spec, *, chat_template: str = "") -> Asked:
    """The base of a spec's inputs with the adapter, if there is one, in a process without state."""
    from transformers import GenerationConfig

    from lorapar_core.loading import attach_adapter, load_base, load_tokenizer

    reset_torch(spec.runtime)
    settings = ModelConfig.model_validate(spec.config["model"])
    where = device(spec.runtime)
    tokenizer = load_tokenizer(spec.inputs["base"], chat_template=chat_template)
    model: Any = load_base(
        spec.inputs["base"],
        dtype=settings.dtype,
        attention=settings.attention,
        quantization=settings.quantization,
        device=where,
    )
    ends = end_tokens(model, tokenizer)
    # generate() fills what its argument leaves open from here: a repetition penalty, for example.
    model.generation_config = GenerationConfig()
    if "adapter" in spec.inputs:
        model = attach_adapter(model, spec.inputs["adapter"]).eval()
    return Asked(model, tokenizer, ends, where)


def _problems(spec: Spec) -> tuple[list[str], list[list[int]], dict[str, tuple[str, str]]]:
    """Ids, prompt tokens, and id -> (prompt, reference), in the test set's order."""
    tokens = token_rows(spec.inputs["tokens"], form=spec.config["format"])
    table = read_table(spec.inputs["examples"], ["id", "prompt", "reference"])
    examples = {i: (p, r) for i, p, r in zip(*table.values(), strict=True)}
    return table["id"], [tokens[i][0] for i in table["id"]], examples


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. The same seed, prompts and device give the same."""

    temperature: float
    top_p: float
    seed: int

    @property
    def arguments(self) -> dict[str, Any]:
        """By transformers' names."""
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
        }


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer, the tokenizer's first; trl ends GRPO's completions at the same.

    A chat model may end its turn with another token than the text's end.
    """
    declared = getattr(model.generation_config, "eos_token_id", None)
    others = declared if isinstance(declared, list) else [declared]
    return list(dict.fromkeys(t for t in (tokenizer.eos_token_id, *others) if t is not None))


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: EvaluationConfig,
    *,
    ends: Sequence[int],
    device: str,
    stops: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Completions (token ids, end-of-sequence included if it came), in prompt order.

    Greedy without `sampling`. A completion also ends with the token that completes one of `stops`;
    `before_stop` takes the stop off its text.
    """
    import torch

    if sampling:
        torch.manual_seed(sampling.seed)
    lengths = [len(prompt) + config.max_new_tokens for prompt in prompts]
    completions: list[list[int]] = [[] for _ in prompts]
    done = 0
    for batch in batches(lengths, config.batch_tokens):
        rows = [prompts[i] for i in batch]
        answers = _generate_batch(
            model, tokenizer, rows, config, list(ends), device, stops=stops, sampling=sampling
        )
        for i, answer in zip(batch, answers, strict=True):
            completions[i] = answer
        done += len(batch)
        events.progress(step=done, total=len(prompts))
    return completions


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: EvaluationConfig,
    ends: list[int],
    device: str,
    *,
    stops: Sequence[str],
    sampling: Sampling | None,
) -> list[list[int]]:
    import torch
    from transformers import GenerationConfig

    from lorapar_core.stopping_text import StopTexts
    from lorapar_core.virtual_tokens import completions

    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    how = GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=ends,
        **(sampling.arguments if sampling else {"do_sample": False}),
    )
    watch = StopTexts(tokenizer, stops)
    with torch.inference_mode():
        made = completions(model, ids.to(device), mask.to(device), how, watch=watch)
    rows = [_until_end(row, ends) for row in made.tolist()]
    return [row[: watch.ended.get(k)] for k, row in enumerate(rows)]


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    length = next((k + 1 for k, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:length]


def judge(
    ids: Sequence[str],
    examples: Mapping[str, tuple[str, str]],
    completions: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    form: AnswerFormat,
    *,
    ends: Sequence[int],
    stops: Sequence[str] = (),
) -> dict[str, list[Any]]:
    """The predictions table's columns."""
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    for example_id, tokens in zip(ids, completions, strict=True):
        prompt, reference = examples[example_id]
        text, stopped = before_stop(tokenizer.decode(tokens, skip_special_tokens=True), stops)
        strict, flexible = form.strict_text(text), form.flexible(text)
        row = {
            "example_id": example_id,
            "prompt": prompt,
            "reference": reference,
            "completion": text,
            "strict": strict,
            "flexible": str(flexible) if flexible is not None else form.flexible_text(text),
            "strict_correct": is_right(text, reference, form, strict=True),
            "flexible_correct": is_right(text, reference, form, strict=False),
            "tokens": len(tokens),
            "finished": stopped or (bool(tokens) and tokens[-1] in ends),
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns


def metrics(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Accuracy by both extractions, with 95 % intervals, and how the answers ended."""
    n = len(rows["example_id"])
    figures: dict[str, Any] = {"n": n}
    for extraction in ("strict", "flexible"):
        correct = sum(rows[f"{extraction}_correct"])
        low, high = wilson(correct, n)
        figures[extraction] = {
            "accuracy": correct / n,
            "correct": correct,
            "interval_95": [low, high],
        }
    figures["finished_share"] = sum(rows["finished"]) / n
    figures["mean_tokens"] = sum(rows["tokens"]) / n
    return figures
