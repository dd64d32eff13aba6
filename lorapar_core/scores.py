"""What a benchmark's predictions come to: shares with 95 % intervals."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lorapar_core.statistics import Z_95, pass_at_k, wilson

_ORDER = ("strict", "flexible", "harness_strict", "harness_flexible", "choice", "macro")


def proportion(correct: int, n: int) -> dict[str, Any]:
    """A share of right answers, with Wilson's interval."""
    return {"accuracy": correct / n, "correct": correct, "interval_95": list(wilson(correct, n))}


def choice_metrics(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Over all problems (`choice`, the micro average), by group, and the mean of the groups."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for group, right in zip(rows["group"], rows["choice_correct"], strict=True):
        groups[group].append(right)
    by_group = {
        group: {"n": len(right), **proportion(sum(right), len(right))}
        for group, right in sorted(groups.items())
    }
    told = {
        "n": len(rows["choice_correct"]),
        "choice": proportion(sum(rows["choice_correct"]), len(rows["choice_correct"])),
    }
    if len(by_group) > 1:
        told |= {"macro": macro([(g["correct"], g["n"]) for g in by_group.values()])}
        told |= {"groups": by_group}
    return told


def macro(counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The mean of groups' shares, each (right, of how many), whatever their sizes.

    The interval is normal, as if groups were drawn apart: the variance of a share is that of
    (right + 1) / (n + 2), so that a group in which all is right isn't taken to be certain.
    """
    mean = sum(right / n for right, n in counts) / len(counts)
    shares = [((right + 1) / (n + 2), n) for right, n in counts]
    half = Z_95 * math.sqrt(sum(p * (1 - p) / n for p, n in shares)) / len(counts)
    return {"accuracy": mean, "interval_95": [max(0.0, mean - half), min(1.0, mean + half)]}


def code_metrics(rows: Mapping[str, Sequence[Any]], *, k: Sequence[int]) -> dict[str, Any]:
    """pass@k for each k: the mean over problems of the unbiased estimate; and how many programs of
    each outcome.

    The interval is Wilson's with that mean; of one program a problem it is the usual one, of more
    it is at least as wide as it has to be.
    """
    passed: dict[str, list[bool]] = defaultdict(list)
    for example_id, right in zip(rows["example_id"], rows["pass_correct"], strict=True):
        passed[example_id].append(right)
    n = len(passed)
    told: dict[str, Any] = {"n": n, "samples": max(map(len, passed.values()))}
    for most in k:
        total = sum(pass_at_k(len(right), sum(right), most) for right in passed.values())
        figures = {"accuracy": total / n, "interval_95": list(wilson(total, n))}
        if told["samples"] == 1:
            figures["correct"] = round(total)
        told[f"pass@{most}"] = figures
    told["outcomes"] = dict(Counter(rows["outcome"]))
    written = len(rows["tokens"])
    told["finished_share"] = sum(rows["finished"]) / written
    told["mean_tokens"] = sum(rows["tokens"]) / written
    return told


def measures(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The shares among a metrics document's values, as people read them: name -> accuracy and
    interval."""
    found = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, Mapping) and "interval_95" in value
    }
    order = [*(name for name in _ORDER if name in found), *found]
    return {name: found[name] for name in dict.fromkeys(order)}


def measure_names(by_stage: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of all evaluations of a benchmark."""
    return list(measures({name: v for found in by_stage.values() for name, v in found.items()}))
