"""Stage `profile`: both importances in brief, for pages: what any theta would keep, and where.

An element that is kept at one θ is kept at every larger one. So each element has, for each system,
a first θ of the grid that keeps it; counted by place and by that pair of firsts, summed up to θ,
they give the regions at every θ of the grid, by the very ranking that the partition cuts (ties
too). No recipe's θ is an input: another θ takes the same profile.

The plane of both importances is told as a histogram over log₁₀ I₁ and log₁₀ I₂. The cuts of a θ
divide it into the regions: right of System 1's cut is kept for System 1, above System 2's for
System 2.

Inputs: importance/1 and importance/2. Writes `profile.json`:

- `thetas`: the grid. `cuts`: system -> the least importance kept at each.
- `places`: layer and module -> `elements`, and `s1_only`, `s2_only`, `shared` at each θ.
- `plane`: `decades`: system -> [low, high], the exponents where its axis begins and ends;
  `bins`: how many on each; `counts`: [bin of I₁, bin of I₂, elements] of those that aren't empty.
  What lies below an axis, a 0 too, is in its first bin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lorapar_core.errors import ModelError
from lorapar_core.partition import place_of
from lorapar_core.ranking import Ranking, Scores
from lorapar_core.spec import Spec

THETAS = (*(k / 40 for k in range(1, 40)), 0.99, 1.0)
BINS = 64
"""On each axis of the plane."""
MOST_DECADES = 12
"""Of an axis; what is less important yet falls into its first bin."""

Levels = NDArray[np.uint8]
Bins = NDArray[np.uint8]


def run(spec: Spec, out: Path) -> None:
    levels, bins, cuts, decades = {}, {}, {}, {}
    sizes: dict[str, int] = {}
    for system in (1, 2):  # one after the other: a ranking holds two copies of the values
        tensors = load_file(spec.inputs[f"importance/{system}"])
        if system == 2 and {key: tensor.size for key, tensor in tensors.items()} != sizes:
            raise ModelError("the two importances are of different adapters; score both on one")
        sizes = {key: tensors[key].size for key in sorted(tensors)}
        scores = np.concatenate([tensors[key].ravel() for key in sizes])
        del tensors
        levels[system], cuts[system] = first_kept(scores)
        bins[system], decades[system] = binned(scores)
        del scores
    profile = {
        "thetas": list(THETAS),
        "cuts": {str(system): cuts[system] for system in (1, 2)},
        "places": by_place(levels, sizes),
        "plane": {
            "bins": BINS,
            "decades": {str(system): decades[system] for system in (1, 2)},
            "counts": plane_counts(bins),
        },
    }
    (out / "profile.json").write_text(json.dumps(profile, separators=(",", ":")) + "\n")


def first_kept(scores: Scores) -> tuple[Levels, list[float]]:
    """For each element how many θ of the grid are too small to keep it, uint8; and each θ's cut.

    Raises:
        ValueError: the scores can't be ranked.
    """
    ranking = Ranking(scores)
    levels = np.zeros(len(scores), np.uint8)
    cuts = []
    for theta in THETAS:
        count = ranking.kept(theta)
        levels += ~ranking.first(count)
        cuts.append(ranking.score(count - 1))
    return levels, cuts


def by_place(levels: Mapping[int, Levels], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Layer and module -> its elements, and the size of each region at each θ.

    `levels`: system -> those of all elements in the order of the tensors; `sizes`: key -> elements.
    """
    width = len(THETAS) + 1  # the last for what no theta keeps, of which there is none
    pairs: dict[str, NDArray[np.int64]] = {}
    start = 0
    for key, size in sizes.items():
        both = [levels[system][start : start + size].astype(np.int64) for system in (1, 2)]
        found = np.bincount(both[0] * width + both[1], minlength=width * width)
        place = place_of(key)
        pairs[place] = pairs.get(place, 0) + found.reshape(width, width)
        start += size
    return {place: _regions(found) for place, found in pairs.items()}


def _regions(pairs: NDArray[np.int64]) -> dict[str, Any]:
    """`pairs[i, j]`: elements first kept by θᵢ for System 1 and by θⱼ for System 2."""
    kept = pairs.cumsum(axis=0).cumsum(axis=1)
    elements = int(kept[-1, -1])
    steps = range(len(THETAS))
    shared = [int(kept[k, k]) for k in steps]
    return {
        "elements": elements,
        "s1_only": [int(kept[k, -1]) - shared[k] for k in steps],
        "s2_only": [int(kept[-1, k]) - shared[k] for k in steps],
        "shared": shared,
    }


def binned(scores: Scores) -> tuple[Bins, list[int]]:
    """Each element's bin on a logarithmic axis, uint8; and the axis's exponents, low and high.

    By comparison with the bins' edges: a logarithm's last bit differs between processors.
    """
    high = math.ceil(math.log10(float(scores.max())))
    least = float(scores[scores > 0].min())
    low = min(high - 1, max(math.floor(math.log10(least)), high - MOST_DECADES))
    span = (high - low) / BINS
    edges = np.array([10 ** (low + k * span) for k in range(1, BINS)], np.float32)
    return np.searchsorted(edges, scores, side="right").astype(np.uint8), [low, high]


def plane_counts(bins: Mapping[int, Bins]) -> list[list[int]]:
    """[bin of I₁, bin of I₂, elements], where there are any."""
    both = bins[1].astype(np.uint16) * np.uint16(BINS) + bins[2]
    counts = np.bincount(both, minlength=BINS * BINS)
    return [[int(k) // BINS, int(k) % BINS, int(counts[k])] for k in np.flatnonzero(counts)]
