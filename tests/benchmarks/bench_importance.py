"""Per-example moments beside the example script's loop, and beside plain matrix multiplication.

The loop is our own writing of what the authors' script does: one example, transformers' own loss,
one backward pass, each tensor's gradient added up. All run in turn in one process, with the threads
and the allocator settings of lorapar's own child processes; medians are taken. SmolLM2's shape has
random weights (no time hangs on them), and 32 examples have lengths as in GSM8K. The tests' tiny
model (2 layers) takes 32 short ones, for which arithmetic is next to nothing, and those too.

The matrix multiplication is fp32, of the model's weights forward and backward, into outputs that
stand ready, with as many rows as a batch has tokens. A model's rate counts 4 x parameters x tokens,
the head at every token, though ours gives it labelled ones only.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import smollm2
import torch
from figures import figure, machine
from peft import LoraConfig, get_peft_model
from timing import medians
from tiny import VOCABULARY, tiny_model_dir

from lorapar_core.config import ImportanceConfig, RuntimeConfig
from lorapar_core.gradients import IGNORED, TokenRow, moments
from lorapar_core.loading import adapter_parameters
from lorapar_core.process import environment

THREADS = 2
REPEATS = 7
EXAMPLES = 32
BATCH_TOKENS = ImportanceConfig().batch_tokens
SHORT = {"prompt": (4, 12), "answer": (3, 8)}
GSM8K = {"prompt": (25, 110), "answer": (40, 165)}


def main() -> None:
    torch.set_num_threads(THREADS)
    machine(threads=THREADS)
    model = adapted(tiny())
    loop, ours = times(both(model, examples(VOCABULARY, **SHORT)))
    figure("importance_ratio_tiny", loop / ours, "ratio")
    loop, ours = times(both(model, examples(VOCABULARY, **GSM8K)))
    figure("importance_ratio_tiny_gsm8k_lengths", loop / ours, "ratio")

    model, rows = adapted(smollm2.smollm2()), examples(smollm2.VOCABULARY, **GSM8K)
    tokens = sum(map(len, rows))
    multiply, products = multiplication(model)
    loop, ours, multiplied = times([*both(model, rows), multiply])
    work = 4 * tokens * sum(p.numel() for n, p in model.named_parameters() if ".lora_" not in n)
    rate = products / multiplied
    figure("importance_ratio_smollm2", loop / ours, "ratio")
    figure("importance_matmul_share", work / ours / rate, "share")
    figure("importance_matmul_gflops", rate / 1e9, "GFLOP/s")
    figure("importance_gflops", work / ours / 1e9, "GFLOP/s")
    figure("importance_loop_gflops", work / loop / 1e9, "GFLOP/s")


def times(calls: Sequence[Callable[[], Any]]) -> list[float]:
    return medians(calls, repeats=REPEATS, warm_up=1)


def tiny() -> Any:
    from lorapar_core.loading import load_base

    with tempfile.TemporaryDirectory() as folder:
        return load_base(tiny_model_dir(Path(folder)), dtype="float32")


def adapted(base: Any) -> Any:
    base.requires_grad_(False)
    lora = LoraConfig(
        r=8, lora_alpha=16, target_modules=smollm2.MODULES, init_lora_weights="gaussian"
    )
    return get_peft_model(base, lora).eval()


def examples(
    vocabulary: int, *, prompt: tuple[int, int], answer: tuple[int, int]
) -> list[TokenRow]:
    """Random tokens; `prompt` and `answer` bound their lengths."""
    draw = random.Random(0)

    def ids(bounds: tuple[int, int]) -> list[int]:
        return [draw.randrange(6, vocabulary) for _ in range(draw.randint(*bounds))]

    return [TokenRow(str(k), ids(prompt), ids(answer)) for k in range(EXAMPLES)]


def both(model: Any, rows: Sequence[TokenRow]) -> list[Callable[[], Any]]:
    """The loop and ours, on the same model and rows."""
    parameters = adapter_parameters(model)

    def asking(grad: bool, call: Callable[[], Any]) -> None:
        for parameter in parameters.values():
            parameter.requires_grad_(grad)
        call()
        model.zero_grad()

    return [
        lambda: asking(True, lambda: one_example_loop(model, rows, parameters)),
        lambda: asking(False, lambda: moments(model, rows, batch_tokens=BATCH_TOKENS)),
    ]


def one_example_loop(
    model: Any, rows: Sequence[TokenRow], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    first = {key: torch.zeros_like(parameter) for key, parameter in parameters.items()}
    second = {key: torch.zeros_like(parameter) for key, parameter in parameters.items()}
    for row in rows:
        model.zero_grad()
        ids = torch.tensor([row.prompt_ids + row.answer_ids])
        labels = torch.tensor([[IGNORED] * len(row.prompt_ids) + row.answer_ids])
        mask = torch.ones_like(ids)
        model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        for key, parameter in parameters.items():
            gradient = parameter.grad
            assert gradient is not None
            first[key] += gradient
            second[key] += gradient**2


def multiplication(model: Any) -> tuple[Callable[[], None], int]:
    """A call that multiplies by every linear weight and by its transpose, and its operations."""
    linears = [
        module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name
    ]
    weights = [module.weight.detach() for module in linears]
    widths = {width for weight in weights for width in weight.shape}
    rows = {width: torch.randn(BATCH_TOKENS, width) for width in widths}
    outputs = {width: torch.empty(BATCH_TOKENS, width) for width in widths}

    def multiply() -> None:
        for weight in weights:
            torch.mm(rows[weight.shape[1]], weight.T, out=outputs[weight.shape[0]])
        for weight in weights:
            torch.mm(rows[weight.shape[0]], weight, out=outputs[weight.shape[1]])

    return multiply, 4 * BATCH_TOKENS * sum(weight.numel() for weight in weights)


if __name__ == "__main__":
    settings = environment(RuntimeConfig(device="cpu", threads=THREADS))
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **settings})
    main()
