"""Optimizer steps of stages `sft` and `grpo`, beside plain trl with PEFT doing the same work.

Both sides take whole optimizer steps as trl's trainers take them: the same random model of
SmolLM2's shape (and the tests' tiny one), adapter, rows, batch, arguments and thread count, all
elements active, no activation checkpointing, no dropout. trl has torch's fused AdamW. They step in
turn in one process, with the threads and the allocator settings of lorapar's own child processes,
which help trl as well. Figures are ratios of medians of the time on the clock, with two threads,
after a step of either side that isn't counted.

SFT takes a batch of eight rows a step, GRPO two of eight completions (two groups) with a KL term.
Prompts have 25 to 110 tokens and answers 40 to 165, as in GSM8K. A random model ends nothing by
itself, so a hook on the output head, the same on both sides, ends completions at the same lengths,
spread evenly over those 40 to 165, each time one of those still running, drawn at random. Neither
side knows a length beforehand, and neither has more tokens than the other.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import smollm2
import torch
from bench_importance import GSM8K, tiny
from datasets import Dataset
from figures import figure, machine
from peft import LoraConfig, get_peft_model
from timing import medians
from tiny import VOCABULARY, tiny_tokenizer_dir
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from lorapar_core.config import GrpoConfig, RuntimeConfig
from lorapar_core.gradients import IGNORED
from lorapar_core.grpo import MaskedGrpoTrainer
from lorapar_core.loading import adapter_parameters, load_tokenizer
from lorapar_core.packed_mask import PackedMask
from lorapar_core.process import environment, quiet_libraries
from lorapar_core.sft import MaskedSftTrainer

THREADS = 2
REPEATS = 3
WARM_UP = 1
BATCH = 8
GROUPS = 2
END = 2  # the tokenizer's


class PlainGrpoTrainer(GRPOTrainer):
    """trl's, on prompts that are tokens already, as ours."""

    prompt_tokens: dict[str, list[int]]
    _tokenize_prompts = MaskedGrpoTrainer._tokenize_prompts


def main() -> None:
    torch.set_num_threads(THREADS)
    quiet_libraries()
    machine(threads=THREADS)
    for name, base, vocabulary in (
        ("_tiny", tiny, VOCABULARY),
        ("", smollm2.smollm2, smollm2.VOCABULARY),
    ):
        with tempfile.TemporaryDirectory() as folder:
            tools = (load_tokenizer(tiny_tokenizer_dir(Path(folder))), vocabulary, Path(folder))
            calls = [sft(kind, base(), *tools) for kind in (SFTTrainer, MaskedSftTrainer)]
            trl, ours = medians(calls, repeats=REPEATS, warm_up=WARM_UP)
            figure(f"sft_tokens_ratio{name}", trl / ours, "ratio")
            calls = [grpo(kind, base(), *tools) for kind in (PlainGrpoTrainer, MaskedGrpoTrainer)]
            trl, ours = medians(calls, repeats=REPEATS, warm_up=WARM_UP)
            figure(f"grpo_completions_ratio{name}", trl / ours, "ratio")


def adapted(base: Any) -> Any:
    base.requires_grad_(False)
    torch.manual_seed(0)
    model = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=smollm2.MODULES, task_type="CAUSAL_LM")
    )
    for weight in adapter_parameters(model).values():
        torch.nn.init.normal_(weight, std=0.01)
    return model


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": BATCH,
        "max_steps": 1,
        "learning_rate": 1e-6,
        "optim": "adamw_torch_fused",
        "activation_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


def prepared(trainer: Any) -> Callable[[], Any]:
    """A call that takes one optimizer step, on the same rows each time."""
    if isinstance(trainer, MaskedSftTrainer | MaskedGrpoTrainer):
        weights = adapter_parameters(trainer.model)
        trainer.masks = {
            key: PackedMask(torch.ones_like(w, dtype=torch.bool)) for key, w in weights.items()
        }
        trainer.inner = torch.optim.AdamW
    return trainer.train


def sft(kind: Any, base: Any, tokenizer: Any, vocabulary: int, folder: Path) -> Callable[[], Any]:
    draw = random.Random(0)
    rows = []
    for _ in range(BATCH):
        prompt = tokens(draw, GSM8K["prompt"], vocabulary)
        answer = tokens(draw, GSM8K["answer"], vocabulary)
        labels = [IGNORED] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "labels": labels})
    config = SFTConfig(
        **arguments(folder),
        max_length=512,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = kind(
        model=adapted(base),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return prepared(trainer)


def grpo(kind: Any, base: Any, tokenizer: Any, vocabulary: int, folder: Path) -> Callable[[], Any]:
    draw, defaults = random.Random(0), GrpoConfig()
    prompts = {str(k): tokens(draw, GSM8K["prompt"], vocabulary) for k in range(GROUPS)}
    config = GRPOConfig(
        **arguments(folder),
        num_generations=BATCH,
        max_completion_length=defaults.max_completion_length,
        gradient_accumulation_steps=GROUPS,
        steps_per_generation=GROUPS,
        beta=defaults.kl_coefficient,
        temperature=defaults.temperature,
        loss_type=defaults.loss_type,
        use_bias_correction_kl=False,
        disable_dropout=True,
    )
    EndsAsGsm8k(base, BATCH * GROUPS)
    trainer = kind(
        model=adapted(base),
        args=config,
        reward_funcs=[lambda completion_ids, **_: [float(len(ids) % 7) for ids in completion_ids]],
        train_dataset=Dataset.from_list([{"prompt": text} for text in prompts]),
        processing_class=tokenizer,
    )
    trainer.prompt_tokens = prompts
    return prepared(trainer)


def tokens(draw: random.Random, bounds: tuple[int, int], vocabulary: int) -> list[int]:
    return [draw.randrange(6, vocabulary) for _ in range(draw.randint(*bounds))]


class EndsAsGsm8k:
    """Hooks that end sampled completions after 40 to 165 tokens, evenly spread.

    They see generation only: losses take the head's weight, not its call, on both sides.
    """

    def __init__(self, model: Any, completions: int) -> None:
        shortest, longest = GSM8K["answer"]
        step = (longest - shortest) / completions
        self._lengths = [round(shortest + step * (k + 0.5)) for k in range(completions)]
        self._draw = random.Random(0)
        self._drawn = 0  # tokens that each running completion has
        self._rows = 0
        self._ended: set[int] = set()  # rows of the present batch; trl keeps them in it
        model.model.register_forward_pre_hook(self._count, with_kwargs=True)
        model.lm_head.register_forward_hook(self._end)

    def _count(self, _module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        rows, width = inputs["input_ids"].shape
        self._drawn = self._drawn + 1 if width == 1 else 0
        if width > 1 or rows < self._rows:
            self._ended.clear()
        self._rows = rows

    def _end(self, _module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., END] = -torch.inf
        for _ in range(self._lengths.count(self._drawn + 1)):
            running = [row for row in range(len(logits)) if row not in self._ended]
            row = self._draw.choice(running)
            self._ended.add(row)
            logits[row] = -torch.inf
            logits[row, ..., END] = 0
        return logits


if __name__ == "__main__":
    settings = environment(RuntimeConfig(device="cpu", threads=THREADS))
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **settings})
    main()
