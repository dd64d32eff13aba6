"""Stage `moments`: gradient moment sums over one shard of one system's examples.

A system's examples are put in a seeded order by id; shard k is the k-th run of `shard_size`, so
that 200 examples begin with the shards of 100. Shards add up (stage `score`).

config: system, start, stop, order_seed, batch_tokens, model. Writes `moments.safetensors`:
`first/KEY` and `second/KEY` (float32, adapter keys), `count`; and `scored.json`, the example ids.
"""

from __future__ import annotations

import json
from pathlib import Path

from lorapar_core.config import ModelConfig
from lorapar_core.errors import TooFewExamples
from lorapar_core.examples import seeded_order, system_ids, token_rows
from lorapar_core.process import device, reset_torch
from lorapar_core.spec import Spec


def run(spec: Spec, out: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from lorapar_core.gradients import TokenRow, moments
    from lorapar_core.loading import attach_adapter, load_base

    reset_torch(spec.runtime)
    ids = _shard(spec)
    tokens = token_rows(spec.inputs["tokens"], form="sft")
    model = ModelConfig.model_validate(spec.config["model"])
    where = device(spec.runtime)
    base = load_base(
        spec.inputs["base"],
        dtype=model.dtype,
        attention=model.attention,
        quantization=model.quantization,
        device=where,
    )
    scored = moments(
        attach_adapter(base, spec.inputs["adapter"]),
        [TokenRow(i, *tokens[i]) for i in ids],
        batch_tokens=spec.config["batch_tokens"],
        device=where,
    )
    named = {f"first/{key}": value.cpu() for key, value in scored.first.items()}
    named |= {f"second/{key}": value.cpu() for key, value in scored.second.items()}
    save_file({**named, "count": torch.tensor(scored.count)}, out / "moments.safetensors")
    (out / "scored.json").write_text(json.dumps(ids) + "\n")


def _shard(spec: Spec) -> list[str]:
    """Example ids of the shard.

    Raises:
        TooFewExamples: the system has fewer than the shard's end.
    """
    system = spec.config["system"]
    tokens = token_rows(spec.inputs["tokens"], form="sft")
    ids = [i for i in system_ids(spec.inputs["labels"], system) if i in tokens]
    start, stop = spec.config["start"], spec.config["stop"]
    if len(ids) < stop:
        raise TooFewExamples(
            f"System {system} has {len(ids)} examples that fit sft.max_length, and "
            f"importance.examples asks for {stop}; lower it or take more data"
        )
    return seeded_order(ids, seed=spec.config["order_seed"])[start:stop]
