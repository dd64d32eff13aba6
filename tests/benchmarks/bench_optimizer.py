"""One step of the masked optimizer, beside dense fused AdamW over the same LoRA tensors.

40 % of the elements are active, at random; r = 8, QKVGUD. Both step in turn, in one process with
the same threads, and the median of each is taken. The share is that of a training step of a model
of SmolLM2-135M's shape (its weights are random: no time hangs on them), a batch of 8 x 160 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import smollm2
import torch
from figures import figure, machine
from held_tensors import held_bytes
from timing import medians

from lorapar_core.masked_optimizer import MaskedOptimizer
from lorapar_core.packed_mask import PackedMask

THREADS = 2
ACTIVE = 0.4
REPEATS = 15
SMOLLM2 = {
    "hidden": smollm2.HIDDEN,
    "inner": smollm2.INNER,
    "key_value": smollm2.KEY_VALUE,
    "layers": smollm2.LAYERS,
}
LLAMA2_7B = {"hidden": 4096, "inner": 11008, "key_value": 4096, "layers": 32}
SETTINGS: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.1}


def main() -> None:
    torch.set_num_threads(THREADS)
    machine(threads=THREADS)
    ours, dense, optimizer, reference = both(shapes(**SMOLLM2))
    step, dense_step = medians([optimizer.step, reference.step], repeats=REPEATS)
    figure("optimizer_step_ratio_smollm2", step / dense_step, "ratio")
    held = held_bytes(optimizer, besides=list(ours.values())) / held_bytes(reference, besides=dense)
    figure("optimizer_bytes_ratio", held, "ratio")
    (whole,) = medians([training_step()], repeats=3)
    figure("optimizer_step_share", step / whole, "share")
    del ours, dense
    _, _, optimizer, reference = both(shapes(**LLAMA2_7B))
    step, dense_step = medians([optimizer.step, reference.step], repeats=REPEATS)
    figure("optimizer_step_ratio_18m", step / dense_step, "ratio")


def shapes(*, hidden: int, inner: int, key_value: int, layers: int) -> list[tuple[int, int]]:
    """Of A and B of every adapted module: q, k, v, gate, up, down."""
    widths = [
        *((hidden, hidden), (hidden, key_value), (hidden, key_value)),
        *((hidden, inner), (hidden, inner), (inner, hidden)),
    ]
    return [shape for into, out in layers * widths for shape in ((8, into), (out, 8))]


def both(
    sizes: Sequence[tuple[int, int]],
) -> tuple[Any, Any, MaskedOptimizer, torch.optim.Optimizer]:
    """The same tensors twice, with gradients, and the two optimizers after a first step."""
    generator = torch.Generator().manual_seed(0)
    ours = {f"{k:04}": torch.nn.Parameter(_normal(s, generator)) for k, s in enumerate(sizes)}
    masks = {
        k: PackedMask(torch.rand(p.shape, generator=generator) < ACTIVE) for k, p in ours.items()
    }
    dense = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours.values()]
    for parameter, twin in zip(ours.values(), dense, strict=True):
        parameter.grad = _normal(parameter.shape, generator)
        twin.grad = parameter.grad.clone()
    optimizer = MaskedOptimizer(ours, masks, **SETTINGS)
    reference = torch.optim.AdamW(dense, fused=True, **SETTINGS)
    optimizer.step()
    reference.step()
    return ours, dense, optimizer, reference


def _normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def training_step() -> Callable[[], None]:
    """Forward and backward of a batch."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(smollm2.smollm2(), LoraConfig(r=8, target_modules=smollm2.MODULES))
    ids = torch.randint(0, smollm2.VOCABULARY, (8, 160))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    return step


if __name__ == "__main__":
    main()
