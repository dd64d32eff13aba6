"""Stage `prepare`: from sources to examples, and to the token ids every later stage reads.

Writes examples.parquet and tokens.parquet (training), test.parquet and test_tokens.parquet,
summary.json, and ids.json (training examples in order, for who needs no more than that). Training
and test stand apart, so that another test set asks no teacher again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorapar_core.config import DataConfig
from lorapar_core.data.choice import Chosen, Entry, choose, read_source
from lorapar_core.data.sources import Source
from lorapar_core.errors import DataError
from lorapar_core.events import progress
from lorapar_core.loading import load_tokenizer
from lorapar_core.parquet import write_table
from lorapar_core.prompts import (
    Tokenizer,
    answer_ids,
    grpo_prompt_ids,
    sft_prompt_ids,
    text_ids,
)
from lorapar_core.spec import Spec

EXAMPLES = pa.schema(
    [(name, pa.string()) for name in ("id", "prompt", "answer", "reference", "source", "split")]
)
TOKENS = pa.schema(
    [
        ("example_id", pa.string()),
        ("format", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("answer_ids", pa.list_(pa.int32())),
    ]
)
_PROGRESS_EVERY = 500


def run(spec: Spec, out: Path) -> None:
    """Prepare the examples that `spec.config` asks for."""
    data = DataConfig.model_validate(spec.config["data"])
    gathered: dict[str, list[Entry]] = {}
    empty = 0
    for split in ("train", "test"):
        if spec.config[split] is not None:
            source = Source.from_json(spec.config[split])
            gathered[split], left_out = read_source(source, spec.inputs.get(split), data=data)
            empty += left_out
            require_unchanged(spec, split)
    chosen = choose(gathered["train"], gathered.get("test"), data=data)

    template = spec.config["model"]["chat_template"]
    tokenizer = load_tokenizer(spec.inputs["tokenizer"], chat_template=template)
    tokens = tokenize(chosen, tokenizer, sft=spec.config["sft"], grpo=spec.config["grpo"])

    train = [entry for entry in chosen.train if entry.id not in tokens.unusable]
    if not train:
        raise DataError(
            "every training prompt fills sft.max_length by itself; raise sft.max_length above "
            f"{spec.config['sft']['max_length']}"
        )
    write_table(out / "examples.parquet", _example_columns(train, "train"), EXAMPLES)
    (out / "ids.json").write_text(json.dumps([entry.id for entry in train]) + "\n")
    write_table(out / "test.parquet", _example_columns(chosen.test, "test"), EXAMPLES)
    tested = {entry.id for entry in chosen.test}
    write_table(out / "tokens.parquet", tokens.rows(lambda i: i not in tested), TOKENS)
    write_table(out / "test_tokens.parquet", tokens.rows(lambda i: i in tested), TOKENS)
    summary = {
        "train": len(train),
        "test": len(chosen.test),
        "duplicates": chosen.duplicates,
        "test_overlap": chosen.test_overlap,
        "empty": empty,
        "cut": tokens.cut,
        "too_long_for_sft": len(tokens.unusable),
        "too_long_for_grpo": tokens.too_long_for_grpo,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


def require_unchanged(spec: Spec, split: str) -> None:
    """The action key names the file by its content: another content must not be stored under it.

    Raises:
        DataError: the file was changed since the run began.
    """
    path, expected = spec.inputs.get(split), spec.digests.get(split)
    if path is None or expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DataError(f"{path} was changed while the run read it; run again")


@dataclass(slots=True)
class Tokens:
    """The rows of tokens.parquet, and what didn't fit."""

    columns: dict[str, list[Any]]
    unusable: set[str]
    """Training examples whose SFT prompt leaves no room for any answer."""
    cut: int = 0
    too_long_for_grpo: int = 0

    def add(self, entry: Entry, form: str, prompt: list[int], answer: list[int]) -> None:
        row = (entry.id, form, prompt, answer)
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)

    def rows(self, chosen: Callable[[str], bool]) -> dict[str, list[Any]]:
        """The rows whose example id is chosen."""
        keep = [chosen(i) for i in self.columns["example_id"]]
        return {name: list(compress(column, keep)) for name, column in self.columns.items()}


def tokenize(
    chosen: Chosen, tokenizer: Tokenizer, *, sft: dict[str, Any], grpo: dict[str, Any]
) -> Tokens:
    """Token rows of all chosen examples: all of SFT's, then all of GRPO's.

    Limits are for training. Test problems keep their whole prompt and have a row of either format.
    """
    tokens = Tokens(columns={name: [] for name in TOKENS.names}, unusable=set())
    entries = [(entry, True) for entry in chosen.train] + [(entry, False) for entry in chosen.test]
    for step, (entry, trains) in enumerate(entries, start=1):
        _add_sft(tokens, entry, tokenizer, sft, trains=trains)
        if step % _PROGRESS_EVERY == 0:
            progress(step=step, total=2 * len(entries))
    for step, (entry, trains) in enumerate(entries, start=1):
        if entry.id not in tokens.unusable:
            _add_grpo(tokens, entry, tokenizer, sft, grpo, trains=trains)
        if step % _PROGRESS_EVERY == 0:
            progress(step=len(entries) + step, total=2 * len(entries))
    return tokens


def _add_sft(
    tokens: Tokens, entry: Entry, tokenizer: Tokenizer, sft: dict[str, Any], *, trains: bool
) -> None:
    prompt = sft_prompt_ids(tokenizer, entry.example.prompt, how=sft["prompt"])
    answer = answer_ids(tokenizer, entry.example.answer)
    room = sft["max_length"] - len(prompt)
    if trains and room <= 0:
        tokens.unusable.add(entry.id)
        return
    tokens.cut += trains and len(answer) > room
    tokens.add(entry, "sft", prompt, answer[: max(room, 0)])


def _add_grpo(
    tokens: Tokens,
    entry: Entry,
    tokenizer: Tokenizer,
    sft: dict[str, Any],
    grpo: dict[str, Any],
    *,
    trains: bool,
) -> None:
    question = entry.example.prompt
    if trains and len(text_ids(tokenizer, question)) > grpo["max_prompt_length"]:
        tokens.too_long_for_grpo += 1
        return
    prompt = grpo_prompt_ids(
        tokenizer,
        question,
        how=grpo["prompt"],
        system_prompt=grpo["system_prompt"],
        sft_how=sft["prompt"],
    )
    tokens.add(entry, "grpo", prompt, [])


def _example_columns(entries: list[Entry], split: str) -> dict[str, list[str]]:
    return {
        "id": [entry.id for entry in entries],
        "prompt": [entry.example.prompt for entry in entries],
        "answer": [entry.example.answer for entry in entries],
        "reference": [entry.example.reference for entry in entries],
        "source": [entry.source for entry in entries],
        "split": [split] * len(entries),
    }
