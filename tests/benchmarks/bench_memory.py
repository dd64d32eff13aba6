"""What `lorapar plan` says of a stage's memory, beside the peak of that stage's process.

A model of SmolLM2-135M's shape with random weights (no byte hangs on them), examples as long as
GSM8K's (to train on, as the longest: an epoch meets those too), and a few steps of each stage:
`python -m lorapar_core`, on a CPU, with the environment that a run gives it. The peak is the
kernel's (`ru_maxrss`, pages of the mapped weights among it), the error predicted / measured - 1.

This process stays small and imports no torch: a child begins with its parent's peak.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import smollm2
from figures import figure, machine

from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.memory import estimate
from lorapar_core.model_shape import read_shape
from lorapar_core.process import environment
from lorapar_core.recipe import parse_recipe
from lorapar_core.spec import Spec
from tasks.action import External
from tasks.score import moments
from tasks.train import train

THREADS = 2
PROMPT, ANSWER = (25, 110), (40, 165)
"""Shortest and longest of GSM8K's, in tokens."""
DRAWN, EXAMPLES = 1000, 16
"""Lengths drawn; the first are System 1's examples, which are scored, the longest System 2's, which
are trained on."""
QUESTIONS = 448
"""Tokens that the tokenizer knows, and can tell questions apart by."""
COMPLETION = 32


@dataclass(frozen=True, slots=True)
class Case:
    """A stage of a recipe."""

    name: str
    stage: str
    sections: Mapping[str, Any]


CASES = (
    Case("sft_batch_1", "sft", {"sft": {"batch_size": 1, "max_steps": 1}}),
    Case("sft_batch_8", "sft", {"sft": {"batch_size": 8, "max_steps": 1}}),
    Case(
        "sft_checkpointing",
        "sft",
        {"sft": {"batch_size": 8, "max_steps": 1, "activation_checkpointing": True}},
    ),
    Case("grpo", "grpo", {"grpo": {"batch_size": 4, "group_size": 4, "max_steps": 1}}),
    Case("moments", "moments", {}),
)


def main() -> None:
    machine(threads=THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([__file__, "inputs", name], folder)
        errors = [error(case, folder) for case in CASES]
    figure("plan_memory_error", max(map(abs, errors)), "share")


def error(case: Case, folder: Path) -> float:
    """Predicted over measured, less one; printed with what was measured."""
    recipe = recipe_of(case, folder)
    shape = read_shape(folder / "model")
    predicted = shape and estimate(case.stage, recipe, shape, device="cpu")
    if not predicted:
        raise SystemExit("the model's config.json tells no shape")
    spec = folder / f"{case.name}.json"
    scratch = folder / f"{case.name}.scratch"
    scratch.mkdir()
    spec.write_text(spec_of(case, recipe, folder, scratch).to_json())
    arguments = ["-m", "lorapar_core", case.stage, str(spec), str(folder / case.name)]
    measured = run(arguments, folder)
    figure(f"peak_gib_{case.name}", measured / 2**30, "GiB")
    found = predicted.total / measured - 1
    figure(f"plan_memory_error_{case.name}", found, "share")
    return found


def recipe_of(case: Case, folder: Path) -> Recipe:
    """A recipe whose limits are the data's."""
    fields: dict[str, Any] = {
        "model": {"base": str(folder / "model"), "dtype": "float32"},
        "teachers": [{"name": "self", "provider": "local"}],
        "importance": {"examples": EXAMPLES},
        "sft": {"max_length": PROMPT[1] + ANSWER[1], "accumulation": 1},
        "grpo": {
            "prompt": "as_sft",
            "accumulation": 1,
            "max_prompt_length": PROMPT[1],
            "max_completion_length": COMPLETION,
        },
        "stages": [{"kind": kind, "system": 2} for kind in ("sft", "grpo")],
        "runtime": {"device": "cpu", "threads": THREADS},
    }
    for section, values in case.sections.items():
        fields[section] |= values
    return parse_recipe(fields)


def spec_of(case: Case, recipe: Recipe, folder: Path, scratch: Path) -> Spec:
    """What a run would hand to the stage."""
    inputs = {
        "base": folder / "model",
        "adapter": folder / "initial/adapter",
        "masks": folder / "partitioned/masks.safetensors",
        **{name: folder / f"{name}.parquet" for name in ("tokens", "labels", "examples")},
    }
    given = {role: External("0", path) for role, path in inputs.items()}
    if case.stage == "moments":
        roles = ("base", "adapter", "tokens", "labels")
        bounds = (0, recipe.importance.examples)
        shown = {role: given[role] for role in roles}
        action = moments(recipe, system=1, bounds=bounds, **shown)
    else:
        stage = next(stage for stage in recipe.stages if stage.kind == case.stage)
        initial = given["adapter"]
        action = train(recipe, stage, name=case.stage, initial=initial, **given)
    return Spec(
        stage=case.stage,
        name=case.name,
        config=action.config,
        inputs={role: inputs[role] for role in action.inputs},
        scratch=scratch,
        runtime=recipe.runtime,
    )


def run(arguments: list[str], folder: Path) -> int:
    """Peak bytes of a Python process of its own, which must end well."""
    settings = environment(RuntimeConfig(device="cpu", threads=THREADS))
    said = folder / "stderr"
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-W", "ignore", *arguments],
        {**os.environ, **settings},
        file_actions=[(os.POSIX_SPAWN_OPEN, 2, str(said), os.O_CREAT | os.O_WRONLY, 0o600)],
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{arguments} ended with {status}: {said.read_text()[-2000:]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_inputs(folder: Path) -> None:
    """Model, tokens, labels, adapter and masks."""
    from tiny import tiny_tokenizer_dir
    from tiny_inputs import tiny_adapter, tiny_masks

    from lorapar_core.parquet import write_table
    from lorapar_core.prepare import EXAMPLES as EXAMPLES_SCHEMA
    from lorapar_core.prepare import TOKENS
    from lorapar_core.tally import LABELS

    model = tiny_tokenizer_dir(folder / "model")
    smollm2.smollm2().save_pretrained(model)
    ids = [f"{number:04}" for number in range(2 * EXAMPLES)]
    texts = dict.fromkeys(EXAMPLES_SCHEMA.names, ids)
    write_table(folder / "examples.parquet", texts, EXAMPLES_SCHEMA)
    write_table(folder / "tokens.parquet", token_columns(ids), TOKENS)
    none = dict.fromkeys(("votes_for", "votes_against", "abstained"), [0] * len(ids))
    systems = [1] * EXAMPLES + [2] * EXAMPLES
    labels = {"example_id": ids, "system": systems, **none, "agreement": [1.0] * len(ids)}
    write_table(folder / "labels.parquet", labels, LABELS)
    lora = {"r": 8, "lora_alpha": 64, "modules": "QKVGUD"}
    tiny_masks(folder / "partitioned", tiny_adapter(folder / "initial", model, **lora))


def token_columns(ids: list[str]) -> dict[str, list[Any]]:
    """Rows of both formats: random tokens, as many as drawn."""
    draw = random.Random(0)
    lengths = [(draw.randint(*PROMPT), draw.randint(*ANSWER)) for _ in range(DRAWN)]
    chosen = lengths[:EXAMPLES] + sorted(lengths, key=sum)[-EXAMPLES:]
    rows = []
    for example_id, (prompt, answer) in zip(ids, chosen, strict=True):
        asked = [draw.randrange(6, QUESTIONS) for _ in range(prompt)]
        told = [draw.randrange(6, smollm2.VOCABULARY) for _ in range(answer)]
        rows += [(example_id, "sft", asked, told), (example_id, "grpo", asked, [])]
    names = ("example_id", "format", "prompt_ids", "answer_ids")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


if __name__ == "__main__":
    if sys.argv[1:2] == ["inputs"]:
        write_inputs(Path(sys.argv[2]))
    else:
        main()
