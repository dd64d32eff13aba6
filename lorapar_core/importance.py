"""Stage `score`: the importance of every LoRA element for one system.

    I(φ) = | ḡ·φ − ½·F̄·φ² |,   ḡ = Σ g / N,   F̄ = Σ g² / N        (paper, section 3.2)

with g per-example gradients at the initial adapter. Shards are added in float64, in shard order,
and the result is stored as float32 under the keys of `adapter_model.safetensors`.

Inputs: the initial adapter, and moments/0, moments/1 … with their scored/K id lists. Writes
`importance.safetensors` and `scored.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lorapar_core.errors import ModelError
from lorapar_core.loading import ADAPTER_WEIGHTS
from lorapar_core.spec import Spec

Tensors = dict[str, NDArray[np.float32]]


def run(spec: Spec, out: Path) -> None:
    count = sum(role.startswith("moments/") for role in spec.inputs)
    shards = [load_file(spec.inputs[f"moments/{k}"]) for k in range(count)]
    adapter = load_file(spec.inputs["adapter"] / ADAPTER_WEIGHTS)
    scores = importance(adapter, shards)
    refuse_zero(scores, system=spec.config["system"])
    save_file(scores, out / "importance.safetensors")
    scored = [i for k in range(count) for i in json.loads(spec.inputs[f"scored/{k}"].read_text())]
    (out / "scored.json").write_text(json.dumps(scored) + "\n")


def importance(adapter: Tensors, shards: Sequence[Tensors]) -> Tensors:
    """Importance of every element: key -> float32 array of the adapter tensor's shape."""
    n = sum(int(shard["count"]) for shard in shards)
    scores = {}
    for key in sorted(adapter):
        phi = adapter[key].astype(np.float64)
        g = sum(shard[f"first/{key}"].astype(np.float64) for shard in shards) / n
        fisher = sum(shard[f"second/{key}"].astype(np.float64) for shard in shards) / n
        scores[key] = np.abs(g * phi - 0.5 * fisher * phi**2).astype(np.float32)
    return scores


def refuse_zero(scores: Tensors, *, system: int) -> None:
    """Raise if nothing has any importance, or something has none that is a number.

    Raises:
        ModelError: as said.
    """
    total = sum(float(np.sum(score, dtype=np.float64)) for score in scores.values())
    if not np.isfinite(total):
        raise ModelError(
            f"importance for System {system} is not finite; use model.dtype: float32, or look for "
            "broken weights"
        )
    if total == 0:
        raise ModelError(
            f"total importance for System {system} is 0: with B = 0 every g·φ is 0. Use lora.init "
            "gaussian, pissa or olora"
        )
