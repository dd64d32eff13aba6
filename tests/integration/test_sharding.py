"""A base shared out between two processes (gloo): each holds half, both compute what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stage_runs import CPU_BUILD
from tiny_recipe import tiny_recipe

from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import parse_recipe
from lorapar_core.sharding import require_shardable, shard_arguments

ROOT = Path(__file__).parents[2]
RANK = """
import json, sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor

from lorapar_core.config import RuntimeConfig
from lorapar_core.loading import load_base
from lorapar_core.sharding import _average, is_sharded, shard_arguments

torch.set_num_threads(1)
runtime = RuntimeConfig(device="cpu", processes=2, sharding=sys.argv[2])
base = load_base(Path(sys.argv[1]), dtype="float32", shared=shard_arguments(runtime))
torch.manual_seed(0)
model = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False))
weights = {n: p.data for n, p in model.named_parameters()}
held = {n: w.to_local() if isinstance(w, DTensor) else w for n, w in weights.items()}
ids = torch.tensor([[7, 8, 9, 10, 11]])
logits = model(input_ids=ids).logits
logits.logsumexp(-1).sum().backward()
if sys.argv[2] == "fsdp":
    weights = [p for n, p in model.named_parameters() if "lora" in n]
    weights[0].grad = None if torch.distributed.get_rank() else 2 * weights[0].grad  # unused by one
    _average(weights)
print(json.dumps({
    "sharded": [is_sharded(base), is_sharded(model)],
    "base": sum(w.numel() for n, w in held.items() if "lora" not in n),
    "adapter": sum(w.numel() for n, w in held.items() if "lora" in n),
    "logits": logits.flatten().tolist(),
    "gradient": torch.cat([p.grad.flatten() for n, p in model.named_parameters()
                           if "lora" in n]).tolist(),
}))
"""


def seen(model: Path, *, ranks: int, sharding: str) -> list[dict[str, object]]:
    """What each process tells."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(model), sharding],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [rank.communicate(timeout=120) for rank in started]
    finally:
        for rank in started:
            rank.kill()
    assert [rank.returncode for rank in started] == [0] * ranks, said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@CPU_BUILD
def test_each_holds_half_and_computes_the_same(tiny_model: Path) -> None:
    (alone,) = seen(tiny_model, ranks=1, sharding="none")
    assert alone["sharded"] == [False, False]
    for rank in seen(tiny_model, ranks=2, sharding="fsdp"):
        assert rank["sharded"] == [True, True]
        assert rank["adapter"] == alone["adapter"]
        assert rank["base"] == pytest.approx(alone["base"] / 2, rel=0.02)
        assert rank["logits"] == pytest.approx(alone["logits"], abs=1e-5)
        assert rank["gradient"] == pytest.approx(alone["gradient"], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtime": {"processes": 1}}, "runtime.processes is 1"),
        ({"model": {"quantization": "nf4"}}, "4-bit weights can't be shared out"),
        ({"grpo": {"engine": "vllm"}}, "grpo.engine vllm is sent whole weights"),
    ],
)
def test_what_can_not_be_shared_out(change: dict[str, dict[str, object]], message: str) -> None:
    fields = tiny_recipe(Path("/model"))
    fields["runtime"] |= {"processes": 2, "sharding": "fsdp"}
    require_shardable(parse_recipe(fields))
    for section, values in change.items():
        fields[section] |= values
    with pytest.raises(ConfigError, match=message):
        require_shardable(parse_recipe(fields))


def test_a_build_for_gpus_shares_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    with pytest.raises(ConfigError, match="needs a CPU build of torch"):
        shard_arguments(RuntimeConfig(device="cpu", processes=2, sharding="fsdp"))
    assert shard_arguments(RuntimeConfig(device="cpu", processes=2)) == {}
