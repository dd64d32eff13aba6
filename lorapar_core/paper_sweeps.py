"""The paper's accuracies for the points of our sweeps, in percent.

LLaMA-2-7B on GSM8K, but for the order of the stages, which the paper tried on Qwen-2.5-7B. A point
has a figure for each phase it was measured after: Tables 1 and 3 after SFT, Table 2 after SFT and
after RL, Tables 4 and 6 after one and two epochs, Table 7 after each of its two stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorapar_core.paper_figures import TABLE_2, TABLE_3

Figures = tuple[float, ...]
"""By phase, in order."""

SOURCES = {
    "theta": "LLaMA-2-7B on GSM8K, Table 3",
    "modules": "LLaMA-2-7B on GSM8K, Table 3",
    "shared": "LLaMA-2-7B on GSM8K, after SFT / after RL, Table 2",
    "labels": "LLaMA-2-7B on GSM8K, QwQ and DeepSeek-R1 as single teachers, Table 1",
    "order": "Qwen-2.5-7B on GSM8K, after the first / the second stage, Table 7",
    "baselines": "LLaMA-2-7B on GSM8K, after one / two epochs, Tables 4 and 6",
}
BASE = 13.3
"""LLaMA-2-7B before training."""

_RANDOM = {
    "QKV": {0.3: 0.0, 0.6: 11.22, 0.9: 21.30},
    "GUD": {0.3: 3.11, 0.6: 17.13, 0.9: 23.43},
    "QKVGUD": {0.3: 6.29, 0.6: 13.87, 0.9: 23.43},
}
_LABELS: dict[str, Figures] = {
    "one teacher, no role play": (25.32,),
    "one teacher": (26.23,),
    "another teacher": (26.84,),
    "random partition": (25.85,),
    "3 teachers": (27.07,),
    "5 teachers": (27.60,),
}
_ORDER: dict[str, Figures] = {"SFT then RL": (68.69, 81.65), "RL then SFT": (70.81, 68.46)}
_METHODS: dict[str, Figures] = {
    "lora-par": (27.07, 34.57),
    "lora": (27.8, 31.86),
    "olora": (29.57, 32.83),
    "pissa": (30.78, 33.59),
    "pissa+rl": (30.63, 37.45),
    "prompt-tuning": (22.37, 26.31),
    "p-tuning": (24.18, 26.76),
    "prefix-tuning": (25.7, 30.02),
    "ia3": (22.97, 26.46),
}
_BY_LABEL = {"labels": _LABELS, "order": _ORDER, "baselines": _METHODS}


def paper_figures(
    sweep: str, label: str, values: Mapping[str, Any], *, theta: float, modules: Any
) -> Figures:
    """The paper's accuracies for a point; empty where it has none.

    `values` are what the point moves; `theta` and `modules` the recipe's, for sweeps that keep
    them.

    >>> paper_figures("modules", "QKV", {"modules": "QKV"}, theta=0.9, modules="QKVGUD")
    (23.35,)
    """
    if sweep in ("theta", "modules"):
        theta, modules = values.get("theta", theta), values.get("modules", modules)
        return _of_theta(theta, modules, random=values.get("elements") == "random")
    if sweep == "shared":
        return TABLE_2.get((values["alpha"], values["beta"]), ())
    return _BY_LABEL.get(sweep, {}).get(label, ())


def _of_theta(theta: float, modules: Any, *, random: bool) -> Figures:
    if not isinstance(modules, str):
        return ()
    found = (_RANDOM if random else TABLE_3).get(modules, {}).get(theta)
    return () if found is None else (found,)
