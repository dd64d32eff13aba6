"""Masked training in two processes (gloo DDP): ranks agree, inactive elements keep their bits."""

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
from transformers import AutoModelForCausalLM

from lorapar_core import ranks
from lorapar_core.loading import adapter_parameters
from lorapar_core.masked_optimizer import MaskedOptimizer, restrict
from lorapar_core.packed_mask import PackedMask

folder, rank, stop, resume = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meet-{stop}{resume}", rank=rank, world_size=2
)
torch.manual_seed(0)
base = AutoModelForCausalLM.from_pretrained(folder / "model")
config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
model = get_peft_model(base, config)
adapter = adapter_parameters(model)
torch.save({k: p.detach().clone() for k, p in adapter.items()}, folder / f"start-{rank}.pt")
generator = torch.Generator().manual_seed(1)
masks = {k: torch.rand(p.shape, generator=generator) < 0.4 for k, p in adapter.items()}
masks[min(masks)].zero_()
torch.save(masks, folder / "masks.pt")
trained, packed = restrict(adapter, {k: PackedMask(m) for k, m in masks.items()})
optimizer = MaskedOptimizer(trained, packed, lr=1e-2, weight_decay=0.1)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 3))
wrapped = DistributedDataParallel(model)
first = 0
if resume == "yes":
    saved = torch.load(folder / "saved.pt")
    with torch.no_grad():
        for key, parameter in adapter.items():
            parameter.copy_(saved["adapter"][key])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    first = saved["step"]
for step in range(first, stop):
    for part in range(2):  # accumulation: the first half isn't exchanged
        ids = torch.randint(6, 400, (2, 12), generator=torch.Generator().manual_seed(
            1000 * step + 10 * part + rank))
        with wrapped.no_sync() if part == 0 else torch.enable_grad():
            wrapped(input_ids=ids, labels=ids).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained.values(), 0.05)
    inside = torch.cat([p.grad[masks[k]] for k, p in trained.items()])
    outside = torch.cat([p.grad[~masks[k]] for k, p in trained.items()])
    assert norm > 0.06 and abs(float(inside.norm()) - 0.05) < 1e-5, (norm, inside.norm())
    assert not outside.any()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
state = {k: p.detach() for k, p in adapter.items()}
torch.save(state, folder / f"end-{stop}-{resume}-{rank}.pt")
if rank == 0:
    torch.save({"adapter": state, "optimizer": optimizer.state_dict(), "step": stop,
                "schedule": schedule.state_dict()}, folder / "saved.pt")
torch.distributed.barrier()
del wrapped  # it holds the group, whose threads must not outlive the interpreter
ranks.part()
"""


def train(folder: Path, *, stop: int, resume: bool) -> list[dict[str, torch.Tensor]]:
    """Both ranks, until step `stop`; returns each one's adapter."""
    word = "yes" if resume else "no"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder), str(rank), str(stop), word],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"end-{stop}-{word}-{rank}.pt") for rank in (0, 1)]


def test_two_processes_train_active_elements_alike(tiny_model: Path, tmp_path: Path) -> None:
    """Under weight decay, clipping, accumulation, warm-up, and once more with a resume between."""
    (tmp_path / "model").symlink_to(tiny_model)
    straight = train(tmp_path, stop=4, resume=False)
    start, masks = torch.load(tmp_path / "start-0.pt"), torch.load(tmp_path / "masks.pt")
    untouched = min(masks)
    for key, mask in masks.items():
        assert torch.equal(straight[0][key], straight[1][key]), "ranks agree"
        assert torch.equal(straight[0][key][~mask], start[key][~mask]), "inactive bits stay"
        if key != untouched:
            assert not torch.equal(straight[0][key][mask], start[key][mask]), "active ones moved"

    train(tmp_path, stop=2, resume=False)
    resumed = train(tmp_path, stop=4, resume=True)
    for key in masks:
        assert torch.equal(resumed[0][key], straight[0][key])
