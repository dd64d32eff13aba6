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
from lorapar_core.ranking import Ranking
from lorapar_core.spec import Spec

KEPT = {1: np.uint8(1), 2: np.uint8(2)}
ACTIVE = {1: np.uint8(4), 2: np.uint8(8)}
_PLACE = re.compile(r"layers\.(\d+)\.(?:.*\.)?(\w+)\.lora_[AB]\.weight$")

Bits = NDArray[np.uint8]


def run(spec: Spec, out: Path) -> None:
    config = PartitionConfig.model_validate(spec.config["partition"])
    scores = {system: load_file(spec.inputs[f"importance/{system}"]) for system in (1, 2)}
    keys = sorted(scores[1])
    if keys != sorted(scores[2]):
        raise ModelError("the two importances are of different adapters; score both on the same")
    shapes = {key: scores[1][key].shape for key in keys}
    rankings = {
        s: Ranking(np.concatenate([scores[s][key].ravel() for key in keys])) for s in (1, 2)
    }
    bits, cuts = partition(rankings, theta=config.theta, alpha=config.alpha, beta=config.beta)
    if config.choice == "random":
        bits, cuts = random_control(bits, seed=config.seed), {}
    masks = split(bits, shapes)
    save_file(masks, out / "masks.safetensors")
    text = json.dumps(regions(masks, cuts), indent=2, sort_keys=True)
    (out / "regions.json").write_text(text + "\n")


def partition(
    rankings: Mapping[int, Ranking], *, theta: float, alpha: float, beta: float
) -> tuple[Bits, dict[int, float]]:
    """The bits of every element, and for each system the least importance it keeps.

    `rankings`: system -> its ranking of all elements, in one order of keys and indices.
    """
    counts = {system: rankings[system].kept(theta) for system in (1, 2)}
    kept = {system: rankings[system].first(counts[system]) for system in (1, 2)}
    shared = kept[1] & kept[2]
    size = int(np.count_nonzero(shared))
    bits = np.zeros(len(shared), np.uint8)
    for system, fraction in ((1, alpha), (2, beta)):
        bits |= kept[system] * KEPT[system]
        chosen = int((Decimal(str(fraction)) * size).to_integral_value(ROUND_FLOOR))
        top = shared if chosen == size else rankings[system].first_of(shared, chosen)
        bits |= (kept[system] & (top | ~shared)) * ACTIVE[system]
    cuts = {system: rankings[system].score(counts[system] - 1) for system in (1, 2)}
    return bits, cuts


def random_control(bits: Bits, *, seed: int) -> Bits:
    """As many elements of each region, and active ones, drawn at random: a baseline.

    A permutation by Philox's raw numbers, which no numpy version changes.
    """
    draws = np.random.Philox(key=seed).random_raw(len(bits))
    return bits[np.argsort(draws, kind="stable")]


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
        places.setdefault(place_of(key), Counter()).update(_counts(bits))
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


def place_of(key: str) -> str:
    """Layer and module of an adapter's tensor: `3.q_proj`; its key where it has no layer."""
    found = _PLACE.search(key)
    return f"{found[1]}.{found[2]}" if found else key


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
