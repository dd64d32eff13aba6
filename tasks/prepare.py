"""Read, shape and tokenise the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorapar_core.config import Recipe
from lorapar_core.data.sources import Source
from tasks.action import UNKNOWN, Action, External, Input


@dataclass(frozen=True, slots=True)
class Located:
    """A source, and its file where it is one."""

    source: Source
    file: Path | None


def prepare(recipe: Recipe, *, tokenizer: Input, train: Located, test: Located | None) -> Action:
    data = recipe.data.model_dump(mode="json", exclude={"source", "test_source", "revision"})
    return Action(
        "prepare",
        "prepare",
        config={
            "data": data,
            "train": train.source.to_json(),
            "test": test.source.to_json() if test else None,
            "model": {"chat_template": recipe.model.chat_template},
            "sft": {"prompt": recipe.sft.prompt, "max_length": recipe.sft.max_length},
            "grpo": {
                "prompt": recipe.grpo.prompt,
                "system_prompt": recipe.grpo.system_prompt,
                "max_prompt_length": recipe.grpo.max_prompt_length,
            },
        },
        inputs={
            "tokenizer": tokenizer,
            **{
                role: External.of_file(located.file) if located.file else UNKNOWN
                for role, located in (("train", train), ("test", test))
                if located and located.source.kind == "file"
            },
        },
    )
