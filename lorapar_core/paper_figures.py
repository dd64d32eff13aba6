"""The paper's own figures, to stand beside ours (LoRA-PAR, Findings of EMNLP 2025).

All of them are of LLaMA-2-7B or Qwen-2.5-7B with r = 8, one epoch a stage. Shares of elements can
be compared in kind with those of any model; an accuracy only with the same model's on the same
data. Where the paper's tables give one setting several values, the one of the table that varies
what the run varies is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACTIVE_BY_THETA: Mapping[str, Mapping[float, float]] = {
    "QKV": {
        0.1: 0.0030,
        0.2: 0.0103,
        0.3: 0.0220,
        0.4: 0.0393,
        0.5: 0.0639,
        0.6: 0.0988,
        0.7: 0.1490,
        0.8: 0.2252,
        0.9: 0.3570,
        1.0: 1.0,
    },
    "GUD": {
        0.1: 0.0022,
        0.2: 0.0121,
        0.3: 0.0289,
        0.4: 0.0530,
        0.5: 0.0861,
        0.6: 0.1310,
        0.7: 0.1930,
        0.8: 0.2827,
        0.9: 0.4290,
        1.0: 1.0,
    },
    "QKVGUD": {
        0.1: 0.0032,
        0.2: 0.0122,
        0.3: 0.0272,
        0.4: 0.0490,
        0.5: 0.0791,
        0.6: 0.1207,
        0.7: 0.1787,
        0.8: 0.2640,
        0.9: 0.4056,
        1.0: 1.0,
    },
}
"""Table 3, GSM8K: modules -> theta -> share of LoRA elements that SFT trains."""

OVERLAP = {
    "GSM8K": (0.2432, 0.2353, 0.614),
    "Dolly-15k": (0.3800, 0.4315, 0.422),
    "CodeAlpaca": (0.3712, 0.3987, 0.444),
}
"""Importance scatter, theta 0.9: data -> S1-only's share of what System 1 keeps, S2-only's of what
System 2 keeps, and the Jaccard overlap of both."""

TABLE_2 = {
    (0.0, 0.0): (18.88, 19.03),
    (0.0, 0.5): (18.12, 25.25),
    (0.0, 1.0): (18.35, 23.58),
    (0.5, 0.0): (23.65, 25.85),
    (0.5, 0.5): (24.79, 29.57),
    (0.5, 1.0): (24.94, 31.01),
    (1.0, 0.0): (27.75, 27.75),
    (1.0, 0.5): (26.99, 31.92),
    (1.0, 1.0): (27.14, 34.37),
}
"""alpha, beta -> accuracy after SFT and after RL, in percent; theta 0.9."""
TABLE_3 = {
    "QKV": {
        0.1: 0.0,
        0.2: 1.44,
        0.3: 15.77,
        0.4: 18.44,
        0.5: 20.55,
        0.6: 22.29,
        0.7: 23.73,
        0.8: 23.65,
        0.9: 23.35,
        1.0: 26.46,
    },
    "GUD": {
        0.1: 12.13,
        0.2: 6.90,
        0.3: 5.76,
        0.4: 6.22,
        0.5: 11.14,
        0.6: 17.36,
        0.7: 21.15,
        0.8: 22.14,
        0.9: 25.47,
        1.0: 30.25,
    },
    "QKVGUD": {
        0.1: 8.87,
        0.2: 12.59,
        0.3: 11.90,
        0.4: 13.04,
        0.5: 13.12,
        0.6: 15.16,
        0.7: 20.62,
        0.8: 24.03,
        0.9: 27.3,
        1.0: 30.63,
    },
}
"""modules -> theta -> accuracy after SFT, in percent."""
_TABLE_4 = {
    ("gaussian", 0.9): (27.07, 34.57),
    ("pissa", 0.9): (28.73, 38.97),
    ("pissa", 0.95): (30.86, 41.85),
}
"""init, theta -> accuracy after SFT and after RL, in percent."""
_BASE = {"llama": 13.3, "qwen": 21.91}
_QWEN = (68.69, 81.65)
_ORDER = [("sft", 1), ("grpo", 2)]
_FIVE = (27.60,)


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A share, and where in the paper it stands."""

    value: float
    source: str


def paper_accuracy(recipe: Mapping[str, Any], model: str, after: str) -> PaperFigure | None:
    """The paper's accuracy on GSM8K for this model and setting, after this stage; else None.

    `recipe`: all of its sections, as plain values; `after`: `base`, `sft` or `grpo`.
    """
    which = _model(model)
    if which is None or recipe["data"]["source"] not in ("gsm8k", "hub:openai/gsm8k"):
        return None
    if after == "base":
        return PaperFigure(_BASE[which] / 100, "Table 4" if which == "llama" else "Table 5")
    found = _after(recipe, which)
    if found is None or after not in ("sft", "grpo"):
        return None
    values, source = found
    place = ("sft", "grpo").index(after)
    return PaperFigure(values[place] / 100, source) if place < len(values) else None


def _after(recipe: Mapping[str, Any], which: str) -> tuple[tuple[float, ...], str] | None:
    if not _as_in_the_paper(recipe):
        return None
    lora, partition = recipe["lora"], recipe["partition"]
    theta, ends = partition["theta"], (partition["alpha"], partition["beta"])
    init, modules = lora["init"], lora["modules"]
    if which == "qwen":
        usual = (init, modules, theta, ends) == ("gaussian", "QKVGUD", 0.9, (1.0, 1.0))
        return (_QWEN, "Table 5") if usual else None
    if ends != (1.0, 1.0):
        varied = (init, modules, theta) == ("gaussian", "QKVGUD", 0.9) and ends in TABLE_2
        return (TABLE_2[ends], "Table 2") if varied else None
    if (init, modules, theta) == ("gaussian", "QKVGUD", 0.9) and _of_five(recipe):
        return _FIVE, "Table 1"
    if modules == "QKVGUD" and (init, theta) in _TABLE_4:
        return _TABLE_4[init, theta], "Table 4"
    varied = init == "gaussian" and theta in TABLE_3.get(modules, {})
    return ((TABLE_3[modules][theta],), "Table 3") if varied else None


def _as_in_the_paper(recipe: Mapping[str, Any]) -> bool:
    """Labels by several teachers who play the model, elements chosen by importance, r and scale as
    published, one epoch of each stage in order."""
    lora, stages = recipe["lora"], recipe["stages"]
    order = [(stage["kind"], stage["system"]) for stage in stages]
    whole = all(stage["epochs"] == 1 and not recipe[stage["kind"]]["max_steps"] for stage in stages)
    return (
        recipe["partition"]["choice"] == "importance"
        and (recipe["voting"]["labels"], recipe["voting"]["role_play"]) == ("votes", True)
        and _voters(recipe) > 1
        and not recipe["data"]["examples"]
        and isinstance(lora["modules"], str)
        and (lora["r"], lora["lora_alpha"]) == (8, 64)
        and bool(order)
        and order == _ORDER[: len(order)]
        and whole
    )


def _of_five(recipe: Mapping[str, Any]) -> bool:
    """SFT alone, on labels of five teachers: Table 1 has that apart from the other tables."""
    return len(recipe["stages"]) == 1 and _voters(recipe) == 5


def _voters(recipe: Mapping[str, Any]) -> int:
    """How many teachers vote."""
    voting = recipe["voting"]
    others = [t for t in recipe["teachers"] if t["name"] != voting["escalate_to"]]
    return len(voting["panel"] or others)


def _model(name: str) -> str | None:
    """`llama` for LLaMA-2-7B, `qwen` for Qwen-2.5-7B, chat and instruct models not among them."""
    last = name.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    return {"llama-2-7b-hf": "llama", "llama-2-7b": "llama", "qwen2.5-7b": "qwen"}.get(last)
