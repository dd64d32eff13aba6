"""A benchmark's problems put to a model, its answers judged, and what they come to.

What `evaluate` does where it is given a benchmark. By kind: `generate` is greedy, read by our two
extractions and by lm-evaluation-harness's two; `choice` takes the likeliest letter; `code` runs
greedy or drawn programs, for pass@k, and keeps what became of each (`sides.Outcome`).

config: evaluation, model, ask (prompt, samples, k, temperature, top_p, seed, and how SFT and GRPO
ask), format, answer_format, and where there may be programs `programs`, the version of how they
are judged. Inputs: problems, benchmark, base, and perhaps an adapter.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lorapar_core import events
from lorapar_core.answers import HASH, answer_format
from lorapar_core.benchmark import read_benchmark
from lorapar_core.choices import choice_logprobs, span_of
from lorapar_core.code_checks import outcomes
from lorapar_core.config import EvaluationConfig
from lorapar_core.data.benchmark_sets import Shown, require_asked_so
from lorapar_core.data.problems import Problem
from lorapar_core.evaluate import PREDICTIONS, Asked, Sampling, generate, judge, load_asked
from lorapar_core.evaluate import metrics as generation_metrics
from lorapar_core.harness import flexible_extract, is_exact_match, strict_match
from lorapar_core.process import thread_count
from lorapar_core.prompts import Tokenizer, chat_ids, grpo_prompt_ids, plain_ids, sft_prompt_ids
from lorapar_core.python_source import is_head
from lorapar_core.rewards.code import program_in
from lorapar_core.scores import choice_metrics, code_metrics, proportion
from lorapar_core.spec import Spec
from lorapar_core.stopping_text import before_stop

_LOG = logging.getLogger(__name__)
GENERATED = pa.schema(
    [
        *PREDICTIONS,
        ("harness_strict", pa.string()),
        ("harness_flexible", pa.string()),
        ("harness_strict_correct", pa.bool_()),
        ("harness_flexible_correct", pa.bool_()),
    ]
)
CHOSEN = pa.schema(
    [
        *((name, pa.string()) for name in ("example_id", "group", "prompt", "reference", "choice")),
        ("logprobs", pa.list_(pa.float64())),
        ("choice_correct", pa.bool_()),
    ]
)
PROGRAMS = pa.schema(
    [
        ("example_id", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("pass_correct", pa.bool_()),
        ("outcome", pa.string()),
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
    ]
)
_CODE_TURN = (
    "Complete this Python function. Answer with the whole function in one Python code block.\n\n"
    "```python\n{}\n```"
)

_TAIL = 8
"""Tokens of the prompt that what follows is decoded with."""

Rows = dict[str, list[Any]]


def measure(spec: Spec) -> tuple[Rows, pa.Schema, dict[str, Any]]:
    """Predictions, their schema, and their metrics."""
    shown = read_benchmark(spec.inputs["problems"], spec.inputs["benchmark"])
    ask = spec.config["ask"]
    require_asked_so(
        shown.kind,
        prompt=ask["prompt"],
        samples=ask["samples"],
        shots=any(shown.shots.values()),
        in_words=shown.in_words,
    )
    asked = load_asked(spec, chat_template=ask.get("chat_template", ""))
    evaluation = EvaluationConfig.model_validate(spec.config["evaluation"])
    if shown.kind == "choice":
        rows = choose(shown, asked, evaluation)
        return rows, CHOSEN, choice_metrics(rows) | _beyond(asked, _choice_lengths(shown, asked))
    prompts = [
        prompt_ids(asked.tokenizer, problem, shown, ask, form=spec.config["format"])
        for problem in shown.problems.values()
    ]
    lengths = [len(prompt) + evaluation.max_new_tokens for prompt in prompts]
    beyond = _beyond(asked, lengths)
    if shown.kind == "code":
        rows = _write(shown, asked, evaluation, prompts, spec)
        return rows, PROGRAMS, code_metrics(rows, k=ask["k"]) | beyond
    stops = shown.stops if ask["prompt"] == "plain" else []
    completions = generate(
        asked.model,
        asked.tokenizer,
        prompts,
        evaluation,
        ends=asked.ends,
        device=asked.device,
        stops=stops,
    )
    examples = {i: (p.question, p.reference) for i, p in shown.problems.items()}
    form = answer_format(spec.config["answer_format"])
    rows = judge(
        list(examples), examples, completions, asked.tokenizer, form, ends=asked.ends, stops=stops
    )
    if form is not HASH:
        return rows, PREDICTIONS, generation_metrics(rows) | beyond
    rows |= as_harness(rows)
    return rows, GENERATED, generation_metrics(rows) | _harness_metrics(rows) | beyond


def _beyond(asked: Asked, lengths: Sequence[int]) -> dict[str, int]:
    """How many problems, with their answers, are longer than what the model was made for. They are
    asked all the same, uncut: what would be cut are worked examples, or the question."""
    context = getattr(asked.model.config.get_text_config(), "max_position_embeddings", None)
    count = sum(length > context for length in lengths) if context else 0
    if count:
        _LOG.warning(
            "%d of %d problems take more than the %d tokens that the model was made for; use fewer "
            "shots, or a lower max_new_tokens",
            *(count, len(lengths), context),
        )
    return {"beyond_context": count}


def _choice_lengths(shown: Shown, asked: Asked) -> list[int]:
    return [
        1 + len(plain_ids(asked.tokenizer, shown.prefixes[problem.group] + problem.prompt))
        for problem in shown.problems.values()
    ]


def prompt_ids(
    tokenizer: Tokenizer, problem: Problem, shown: Shown, ask: Mapping[str, Any], *, form: str
) -> list[int]:
    """A problem's tokens, asked as `ask["prompt"]` says; `form` is the last stage's kind."""
    if ask["prompt"] == "plain":
        return plain_ids(tokenizer, shown.prefixes[problem.group] + problem.prompt)
    if ask["prompt"] == "chat":
        question = problem.question
        if problem.kind == "code":
            question = problem.prompt.rstrip()
            if is_head(question):
                question = _CODE_TURN.format(question)
        turns = [
            {"role": role, "content": text.strip()}
            for shot in shown.shots[problem.group]
            for role, text in zip(("user", "assistant"), shot, strict=True)
        ]
        return chat_ids(tokenizer, [*turns, {"role": "user", "content": question}])
    if form == "grpo":
        return grpo_prompt_ids(
            tokenizer,
            problem.question,
            how=ask["grpo"]["prompt"],
            system_prompt=ask["grpo"]["system_prompt"],
            sft_how=ask["sft"]["prompt"],
        )
    return sft_prompt_ids(tokenizer, problem.question, how=ask["sft"]["prompt"])


def choose(shown: Shown, asked: Asked, evaluation: EvaluationConfig, *, share: bool = True) -> Rows:
    """The likeliest letter of each problem, of equals the first; a group's problems together."""
    found: dict[str, dict[int, float]] = {i: {} for i in shown.problems}
    total = sum(len(problem.choices) for problem in shown.problems.values())
    done = 0
    for group, before in shown.prefixes.items():
        ids = [i for i, problem in shown.problems.items() if problem.group == group]
        spans = [
            [
                span_of(asked.tokenizer, before + shown.problems[i].prompt, f" {letter}")
                for letter in letters(shown.problems[i])
            ]
            for i in ids
        ]
        batches = choice_logprobs(
            asked.model,
            spans,
            batch_tokens=evaluation.batch_tokens,
            device=asked.device,
            share=share,
        )
        for batch in batches:
            for (position, choice), logprob in batch.items():
                found[ids[position]][choice] = logprob
            done += len(batch)
            events.progress(step=done, total=total)
    rows: Rows = {name: [] for name in CHOSEN.names}
    for i, problem in shown.problems.items():
        logprobs = [found[i][c] for c in range(len(problem.choices))]
        letter = letters(problem)[logprobs.index(max(logprobs))]
        row = (i, problem.group, problem.question, problem.reference, letter, logprobs)
        _append(rows, (*row, letter == problem.reference))
    return rows


def letters(problem: Problem) -> str:
    """What its choices are called."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(problem.choices)]


def _append(rows: Rows, values: Sequence[Any]) -> None:
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)


def _write(
    shown: Shown,
    asked: Asked,
    evaluation: EvaluationConfig,
    prompts: Sequence[list[int]],
    spec: Spec,
) -> Rows:
    """Programs, and whether they pass."""
    ask = spec.config["ask"]
    count, plain = ask["samples"], ask["prompt"] == "plain"
    sampling = Sampling(ask["temperature"], ask["top_p"], ask["seed"]) if count > 1 else None
    stops = shown.stops if plain else []
    repeated = [prompt for prompt in prompts for _ in range(count)]
    completions = generate(
        asked.model,
        asked.tokenizer,
        repeated,
        evaluation,
        ends=asked.ends,
        device=asked.device,
        stops=stops,
        sampling=sampling,
    )
    rows: Rows = {name: [] for name in PROGRAMS.names}
    programs = []
    jobs = [(i, problem, k) for i, problem in shown.problems.items() for k in range(count)]
    for (i, problem, k), prompt, tokens in zip(jobs, repeated, completions, strict=True):
        said = text_after(asked.tokenizer, prompt, tokens)
        text, stopped = before_stop(said, stops)
        finished = stopped or (bool(tokens) and tokens[-1] in asked.ends)
        programs.append((program_of(problem, text, plain=plain), problem))
        _append(rows, (i, k, problem.prompt, text, False, "", len(tokens), finished))
    rows["outcome"] = outcomes(
        programs, sandbox=spec.runtime.sandbox, workers=thread_count(spec.runtime)
    )
    rows["pass_correct"] = [outcome == "passed" for outcome in rows["outcome"]]
    return rows


def program_of(problem: Problem, completion: str, *, plain: bool) -> str:
    """The program: the prompt and what follows it; in chat the function is written anew, after the
    prompt's imports, if the prompt isn't in words."""
    if plain:
        return problem.prompt + completion
    head = problem.prompt.rstrip()
    return f"{head}\n\n\n{program_in(completion)}" if is_head(head) else program_in(completion)


def text_after(tokenizer: Any, prompt: Sequence[int], made: Sequence[int]) -> str:
    """What the tokens `made` add to the prompt's text. Alone some decoders take their first space
    (LLaMA's does), and with it the indentation of a program's first line."""
    tail = list(prompt[-_TAIL:])
    before, after = (
        tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (tail, [*tail, *made])
    )
    if after.startswith(before):
        return str(after[len(before) :])
    return str(tokenizer.decode(made, skip_special_tokens=True))


def as_harness(rows: Mapping[str, Sequence[Any]]) -> Rows:
    """What lm-evaluation-harness would extract of the completions, and count."""
    columns: Rows = {}
    for name, extract in (("strict", strict_match), ("flexible", flexible_extract)):
        found = [extract(text) for text in rows["completion"]]
        columns[f"harness_{name}"] = found
        columns[f"harness_{name}_correct"] = [
            is_exact_match(text, reference)
            for text, reference in zip(found, rows["reference"], strict=True)
        ]
    return columns


def _harness_metrics(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    n = len(rows["example_id"])
    names = ("harness_strict", "harness_flexible")
    return {name: proportion(sum(rows[f"{name}_correct"]), n) for name in names}
