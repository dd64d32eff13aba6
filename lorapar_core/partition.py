"""Stage `partition`: which elements each system keeps and trains.

Per system all elements of all tensors are ranked together by importance, descending, ties by key,
then by index. With S the float64 running sum in that order, an element is kept iff the sum before
it is below θ·S_total; θ = 1 keeps every element. S1-only, S2-only and shared follow. System 1
trains S1-only and the first ⌊α·n⌋ of the n shared elements by its own rank, System 2 likewise
with β.

Writes `masks.safetensors` (uint8 an element: bits 0 and 1 kept for S1 and S2, bits 2 and 3 active
for them) and `regions.json` (counts, shares, Jaccard, cut values, in all and per layer and module).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lorapar_core.config import PartitionConfig
from lorapar_core.errors import ModelError
from lorapar_core.spec import Spec

KEPT = {1: np.uint8(1), 2: np.uint8(2)}
ACTIVE = {1: np.uint8(4), 2: np.uint8(8)}
_PLACE = re.compile(r"layers\.(\d+)\.(?:.*\.)?(\w+)\.lora_[AB]\.weight$")

Bits = NDArray[np.uint8]
Rank = NDArray[np.int64]


def run(spec: Spec, out: Path) -> None:
    config = PartitionConfig.model_validate(spec.config["partition"])
    scores = {system: load_file(spec.inputs[f"importance/{system}"]) for system in (1, 2)}
    keys = sorted(scores[1])
    if keys != sorted(scores[2]):
        raise ModelError("the two importances are of different adapters; score both on the same")
    shapes = {key: scores[1][key].shape for key in keys}
    flat = {s: np.concatenate([scores[s][key].ravel() for key in keys]) for s in (1, 2)}
    bits, cuts = partition(flat, theta=config.theta, alpha=config.alpha, beta=config.beta)
    masks = split(bits, shapes)
    save_file(masks, out / "masks.safetensors")
    text = json.dumps(regions(masks, cuts), indent=2, sort_keys=True)
    (out / "regions.json").write_text(text + "\n")


def partition(
    scores: Mapping[int, NDArray[np.float32]], *, theta: float, alpha: float, beta: float
) -> tuple[Bits, dict[int, float]]:
    """The bits of every element, and for each system the least importance it keeps.

    `scores`: system -> float32 importances of all elements, in one order of keys and indices.
    """
    bits = np.zeros(len(scores[1]), np.uint8)
    orders: dict[int, Rank] = {}
    cuts: dict[int, float] = {}
    for system in (1, 2):
        orders[system] = rank(scores[system])
        count = kept_count(scores[system][orders[system]], theta)
        bits[orders[system][:count]] |= KEPT[system]
        cuts[system] = float(scores[system][orders[system][count - 1]])
    for system, fraction in ((1, alpha), (2, beta)):
        bits[_active(bits, orders[system], system, fraction)] |= ACTIVE[system]
    return bits, cuts


def rank(scores: NDArray[np.float32]) -> Rank:
    """Positions by importance, descending; equal ones in the order given."""
    return np.argsort(-scores, kind="stable")


def kept_count(ranked: NDArray[np.float32], theta: float) -> int:
    """How many of the descending importances have a sum before them below theta × total."""
    if theta == 1:
        return len(ranked)
    sums = np.cumsum(ranked, dtype=np.float64)
    # Element k's "sum before" is sums[k - 1], so kept = 1 + how many sums are below the bound.
    return 1 + int(np.searchsorted(sums, theta * sums[-1], side="left"))


def _active(bits: Bits, order: Rank, system: int, fraction: float) -> Rank:
    """Positions that `system` trains: its own only, and the top fraction of the shared."""
    kept = bits[order] & np.uint8(3)
    shared = order[kept == 3]
    count = int((Decimal(str(fraction)) * len(shared)).to_integral_value(ROUND_FLOOR))
    return np.concatenate([order[kept == KEPT[system]], shared[:count]])


def split(bits: Bits, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bits]:
    """The flat bits as tensors again: key -> uint8 array of the adapter tensor's shape."""
    masks, start = {}, 0
    for key, shape in shapes.items():
        size = int(np.prod(shape))
        masks[key] = np.ascontiguousarray(bits[start : start + size].reshape(shape))
        start += size
    return masks


def active_mask(bits: Bits, system: int | str) -> NDArray[np.bool_]:
    """Which elements a stage of `system` (1, 2, or "all" for every kept one) trains."""
    wanted = KEPT[1] | KEPT[2] if system == "all" else ACTIVE[int(system)]
    active: NDArray[np.bool_] = (bits & wanted) != 0
    return active


def regions(masks: Mapping[str, Bits], cuts: Mapping[int, float]) -> dict[str, Any]:
    """Region counts and what the paper plots of them."""
    places: dict[str, Counter[str]] = {}
    for key, bits in masks.items():
        found = _PLACE.search(key)
        place = f"{found[1]}.{found[2]}" if found else key
        places.setdefault(place, Counter()).update(_counts(bits))
    total: Counter[str] = Counter()
    for counts in places.values():
        total.update(counts)
    one, two, shared = total["s1_only"], total["s2_only"], total["shared"]
    return {
        "counts": dict(total),
        "kept_share": {
            "1": (one + shared) / total["elements"],
            "2": (two + shared) / total["elements"],
        },
        "active_share": {
            "1": total["active_1"] / total["elements"],
            "2": total["active_2"] / total["elements"],
        },
        "s1_only_share": one / max(1, one + shared),
        "s2_only_share": two / max(1, two + shared),
        "jaccard": shared / max(1, one + two + shared),
        "cut": {str(system): cut for system, cut in cuts.items()},
        "by_place": {place: dict(counts) for place, counts in places.items()},
    }


def _counts(bits: Bits) -> dict[str, int]:
    kept = np.bincount((bits & np.uint8(3)).ravel(), minlength=4)
    return {
        "s1_only": int(kept[1]),
        "s2_only": int(kept[2]),
        "shared": int(kept[3]),
        "rest": int(kept[0]),
        "elements": int(bits.size),
        "active_1": int(np.count_nonzero(bits & ACTIVE[1])),
        "active_2": int(np.count_nonzero(bits & ACTIVE[2])),
    }
