"""EleutherAI's lm-evaluation-harness on the same model and rows as our benchmarks: an oracle.

Its own MMLU and GSM8K tasks, with the rows read from local files. It is in no lock, since it brings
scikit-learn, sacrebleu and nltk: `pip install -e '.[harness]'`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

NEEDED = ("lm_eval", "sacrebleu", "sklearn", "evaluate", "rouge_score", "sqlitedict")
MMLU = {
    "doc_to_text": (
        "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:"
    ),
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
    "output_type": "multiple_choice",
    "fewshot_config": {"sampler": "first_n"},
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
"""lm_eval/tasks/mmlu/default/_default_template_yaml, of 0.4.13."""
GSM8K = {
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "output_type": "generate_until",
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
        }
    ],
    "generation_kwargs": {
        "until": ["Question:", "</s>", "<|im_end|>"],
        "do_sample": False,
        "temperature": 0.0,
    },
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [
                {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {
                    "function": "regex",
                    "group_select": -1,
                    "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                },
                {"function": "take_first"},
            ],
        },
    ],
}
"""lm_eval/tasks/gsm8k/gsm8k.yaml, version 3.0, of 0.4.13."""


def available() -> bool:
    """Whether the harness can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def samples(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    description: str = "",
    shots: Sequence[Mapping[str, Any]] = (),
    max_length: int = 1024,
    **generation: Any,
) -> list[dict[str, Any]]:
    """What the harness logs of every row, in their order; of several filters one after another.

    Args:
        model: a transformers model, as is.
        tokenizer: its tokenizer.
        task: `MMLU` or `GSM8K`.
        rows: test rows.
        folder: where rows and the task's YAML are written.
        description: what stands before all worked examples.
        shots: rows of worked examples; all of them are shown.
        max_length: the model's context.
        generation: over the task's own arguments.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder.mkdir(parents=True)
    files = {"test": rows, "dev": shots or rows[:1]}
    for split, some in files.items():
        text = "".join(json.dumps(dict(row)) + "\n" for row in some)
        (folder / f"{split}.jsonl").write_text(text)
    document = {
        **task,
        "task": "ours",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {split: str(folder / f"{split}.jsonl") for split in files},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": len(shots),
        "description": description,
        "metadata": {"version": 1.0},
    }
    if generation:
        document["generation_kwargs"] = {**task["generation_kwargs"], **generation}
    (folder / "ours.yaml").write_text(yaml.safe_dump(document))
    found = simple_evaluate(
        model=HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=8,
            max_length=max_length,
            device="cpu",
        ),
        tasks=["ours"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found is not None
    logged: list[dict[str, Any]] = found["samples"]["ours"]
    return logged
