"""A sweep's inputs with made-up answers, and their comparison."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiny_inputs import run_stage
from tiny_report import LOCAL, trial_inputs

from flows.places import RECIPES
from flows.sweeps import SWEEPS
from lorapar_core.config import Recipe
from lorapar_core.evaluate import PREDICTIONS
from lorapar_core.parquet import write_table
from lorapar_core.recipe import load_recipe

PROBLEMS = [f"{k:032x}" for k in range(60)]
HOSTILE = "<script>alert(1)</script>|x"


def predictions(path: Path, right: list[bool], ids: list[str] | None = None) -> Path:
    """Answers to the problems, as `evaluate` writes them."""
    ids = ids or PROBLEMS
    columns: dict[str, list[Any]] = {
        name: [""] * len(ids) for name in PREDICTIONS.names if name not in ("tokens", "finished")
    }
    columns |= {
        "example_id": ids,
        "strict_correct": right,
        "flexible_correct": [True] * len(ids),
        "tokens": [3] * len(ids),
        "finished": [True] * len(ids),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, columns, PREDICTIONS)
    return path


def drawn(share: float, seed: int) -> list[bool]:
    source = random.Random(seed)
    return [source.random() < share for _ in PROBLEMS]


class Swept:
    """A sweep's inputs, point by point."""

    def __init__(self, folder: Path, sweep: str, *, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
        self.folder = folder
        self.seeds = seeds
        recipe = load_recipe("gsm8k-llama2-7b", recipes=RECIPES)
        points = SWEEPS[sweep].points(recipe)
        self.labels = [point.label for point in points]
        self.inputs: dict[str, Path] = {"base": predictions(folder / "base", drawn(0.1, 99))}
        self.config: dict[str, Any] = {
            "sweep": sweep,
            "recipe": HOSTILE,
            "description": HOSTILE,
            "model": "tiny",
            "theta": 0.9,
            "modules": "QKVGUD",
            "seeds": list(seeds),
            "points": [
                {"label": p.label, "values": dict(p.values), "phases": ["sft", "grpo"]}
                for p in points
            ],
            "claims": [asdict(claim) for claim in SWEEPS[sweep].claims(points)],
            "calibrations": {},
            "exhibit": {},
        }

    def answer(self, label: str, seed: int, phase: str, right: list[bool]) -> None:
        role = f"predictions/{label}/{seed}/{phase}"
        self.inputs[role] = predictions(self.folder / role, right)

    def fill(self, shares: Mapping[str, float]) -> Swept:
        """Every point with every seed: its share after GRPO, half of it after SFT."""
        for k, (label, share) in enumerate(shares.items()):
            for seed in self.seeds:
                self.answer(label, seed, "sft", drawn(share / 2, 1000 * k + seed))
                self.answer(label, seed, "grpo", drawn(share, 2000 * k + seed))
                regions = self.folder / f"regions{k}-{seed}.json"
                shares_ = {"1": 0.4, "2": 0.2 + seed / 10}
                regions.write_text(json.dumps({"kept_share": shares_, "active_share": shares_}))
                self.inputs[f"regions/{label}/{seed}"] = regions
        return self

    def train(self, steps: int = 3) -> Swept:
        """Figures of every point's and seed's training: a loss of SFT and a reward of GRPO."""
        for k, label in enumerate(self.labels):
            for seed in self.seeds:
                for phase, key in (("sft", "loss"), ("grpo", "reward")):
                    rows = [
                        {"step": n + 1, "loss": 1e-9, "grad_norm": 1.0, key: k + seed + n / 10}
                        for n in range(steps)
                    ]
                    role = f"training/{label}/{seed}/{phase}"
                    self.inputs[role] = self.folder / f"{k}-{seed}-{phase}.jsonl"
                    text = "".join(json.dumps(row) + "\n" for row in rows)
                    self.inputs[role].write_text(text)
        return self

    def show(self, text: str = "fine", **sections: Any) -> Swept:
        """The regions and labels of a trial of that name; `text` is all that others wrote."""
        recipe = Recipe.model_validate({"teachers": LOCAL, **sections})
        told = recipe.model_dump(mode="json", exclude={"runtime"})
        self.config["exhibit"] = {"trial": text, "recipe": told}
        folder = self.folder / "exhibit"
        folder.mkdir()
        self.inputs |= {
            f"exhibit/{role}": path for role, path in trial_inputs(folder, recipe, text).items()
        }
        return self

    def compare(self, name: str = "out") -> dict[str, Any]:
        out = run_stage("sweep", self.config, self.inputs, self.folder / name)
        found: dict[str, Any] = json.loads((out / "results.json").read_text())
        return found
