"""Labels' log-probabilities in two processes (gloo DDP): gradients are the mean of both ranks'."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
RANK = """
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from trl.trainer.utils import add_fused_lm_head

from lorapar_core.label_logprobs import install
from lorapar_core.loading import load_base

folder, rank, ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
base = load_base(folder / "model", dtype="float32")
model = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False))
add_fused_lm_head(base)
install(base, temperature=1.0)
if ranks == 2:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(model)
else:
    wrapped = model
ids = torch.randint(6, 400, (2, 3, 12), generator=torch.Generator().manual_seed(1))
ids[:, :, :5] = ids[:, :1, :5]  # one prompt a rank: it is computed once
labels = ids.clone()
labels[:, :, :5] = -100
loss = 0.0
for part in [rank] if ranks == 2 else [0, 1]:
    mask = torch.ones_like(ids[part])
    outputs = wrapped(input_ids=ids[part], attention_mask=mask, labels=labels[part],
                      fused_lm_head=True)
    loss = loss + outputs.loss / (1 if ranks == 2 else 2)
loss.backward()
gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
torch.save(gradients, folder / f"gradients-{ranks}-{rank}.pt")
"""


def gradients(folder: Path, ranks: int) -> list[dict[str, torch.Tensor]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder), str(rank), str(ranks)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [rank.communicate(timeout=120)[1] for rank in started]
    finally:
        for rank in started:
            rank.kill()
    assert [rank.returncode for rank in started] == [0] * ranks, "\n".join(said)
    return [torch.load(folder / f"gradients-{ranks}-{rank}.pt") for rank in range(ranks)]


def test_two_ranks_have_the_gradient_of_one_process(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    (alone,) = gradients(tmp_path, 1)
    for rank in gradients(tmp_path, 2):
        assert rank.keys() == alone.keys()
        for name, gradient in rank.items():
            assert gradient.norm() > 0
            assert (gradient - alone[name]).norm() < 1e-5 * alone[name].norm(), name
