"""The partition of LLaMA-2-7B's LoRA elements, beside the example script's walk.

17,891,328 elements (r = 8, QKVGUD) a system, two systems; numpy takes one thread. The walk is our
own writing of what the authors' script does: a pandas frame, sorted, and `iterrows` until theta is
reached. It is divided by the elements it came to, ours by all there are.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
from figures import figure, machine

from lorapar_core.partition import partition
from lorapar_core.profile_importance import binned, by_place, first_kept, plane_counts
from lorapar_core.ranking import Ranking, Scores

ELEMENTS = 17_891_328
WALKED = 200_000
THETA = 0.9
LATER = (0.5, 0.6, 0.7, 0.8, 0.85, 0.925, 0.95, 0.975, 0.99)
REPEATS = 3
PLACES = 32 * 6
"""Layers and modules."""


def main() -> None:
    machine(threads=1)
    scores = {system: importances(ELEMENTS, seed=system) for system in (1, 2)}
    firsts, laters = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        rankings = {system: Ranking(values) for system, values in scores.items()}
        partition(rankings, theta=THETA, alpha=1.0, beta=1.0)
        firsts.append(time.perf_counter() - started)
        started = time.perf_counter()
        for theta in LATER:
            partition(rankings, theta=theta, alpha=1.0, beta=1.0)
        laters.append(time.perf_counter() - started)
        del rankings
    first = float(np.median(firsts))
    figure("partition_first_theta_s", first, "s")
    figure("partition_next_nine_s", float(np.median(laters)), "s")
    figure("partition_peak_mib", _peak_mib(), "MiB")
    figure("profile_s", profile_seconds(scores), "s")
    ratio = walk_seconds(importances(WALKED, seed=3)) / (first / (2 * ELEMENTS))
    figure("partition_ratio_per_element", ratio, "ratio")


def importances(count: int, *, seed: int) -> Scores:
    """Log-normal, so skewed that theta 0.9 keeps 40 % of them, as in the paper."""
    draws = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
    draws *= np.float32(1.535)
    return np.exp(draws, out=draws)


def profile_seconds(scores: Mapping[int, Scores]) -> float:
    """Of all that stage `profile` does but reading and writing, on as many places as the model."""
    started = time.perf_counter()
    levels = {system: first_kept(values)[0] for system, values in scores.items()}
    bins = {system: binned(values)[0] for system, values in scores.items()}
    size = ELEMENTS // PLACES
    by_place(levels, {f"layers.{k}.q_proj.lora_A.weight": size for k in range(PLACES)})
    plane_counts(bins)
    return time.perf_counter() - started


def walk_seconds(scores: Scores) -> float:
    """Seconds that the script's walk takes for each element it comes to."""
    names = np.repeat([f"layer.{k}" for k in range(20)], len(scores) // 20)
    frame = pd.DataFrame({"tensor": names, "index": np.arange(len(scores)), "importance": scores})
    started = time.perf_counter()
    frame = frame.sort_values("importance", ascending=False)
    bound, total, kept = THETA * frame["importance"].sum(), 0.0, []
    for _, row in frame.iterrows():
        if total >= bound:
            break
        total += row["importance"]
        kept.append((row["tensor"], row["index"]))
    return (time.perf_counter() - started) / len(kept)


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
