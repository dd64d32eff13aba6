"""What a training stage tells of each optimizer step, and what it warns of.

`metrics.jsonl` has every figure, speeds too; `figures.jsonl` those that come out the same each
time, so that what reads them (the report) is keyed by nothing that a clock decided.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lorapar_core import events
from lorapar_core.errors import TrainingError

_LOG = logging.getLogger(__name__)
ALL, STEADY = "metrics.jsonl", "figures.jsonl"
SPEED = "tokens_per_second"
TIMES = frozenset({"step_time", SPEED})
"""Figures that differ from run to run."""
RATE = "learning_rate"
CLIPPED = "completions/clipped_ratio"
MOSTLY = 0.5
"""Share of completions cut at their longest length from which on we say so."""
Row = Mapping[str, float]


class Figures(TrainerCallback):
    """Keeps what the trainer logs, reports each step, and warns.

    Raises:
        TrainingError: loss or gradient is no number any more.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._warned: Counter[str] = Counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by transformers' Trainer after each optimizer step."""
        row = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if "train_runtime" in row:  # its closing summary of times
            return
        _refuse_no_number(row, step=state.global_step)
        self.rows.append({"step": state.global_step, **row})
        if state.global_step == state.max_steps and all(r.get(RATE) == 0 for r in self.rows):
            self._warn(
                RATE,
                "the learning rate was 0 in every step: nothing was trained; lower warmup, or take "
                "more steps",
            )
        for kind, warning in _warnings(row, step=state.global_step):
            self._warn(kind, warning)
        events.progress(step=state.global_step, total=state.max_steps, **row)

    def _warn(self, kind: str, warning: str) -> None:
        """Say it the 1st, 10th, 100th … time."""
        self._warned[kind] += 1
        times = self._warned[kind]
        if times == 10 ** (len(str(times)) - 1):
            _LOG.warning("%s%s", warning, "" if times == 1 else f" ({times} steps so far)")

    def collect(self) -> None:
        """Every rank has the same rows: trl gathers what they are made of."""

    def speed(self) -> dict[str, float]:
        """`tokens_per_second`, the mean of the steps, those before a kill too; or nothing."""
        speeds = [row[SPEED] for row in self.rows if row.get(SPEED)]
        return {SPEED: sum(speeds) / len(speeds)} if speeds else {}

    def save(self, folder: Path) -> None:
        """Write the rows."""
        steady = [{k: v for k, v in row.items() if k not in TIMES} for row in self.rows]
        for name, rows in ((ALL, self.rows), (STEADY, steady)):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def load(self, folder: Path) -> None:
        """Begin with the rows written there."""
        lines = (folder / ALL).read_text().splitlines()
        self.rows = [json.loads(line) for line in lines]


def _refuse_no_number(row: Row, *, step: int) -> None:
    # Of an infinite norm clipping makes weights that are NaN.
    for name, called in (("loss", "loss"), ("grad_norm", "the gradient norm")):
        if not math.isfinite(row.get(name, 0.0)):
            raise TrainingError(
                f"{called} is {row[name]} at step {step}; lower the learning rate, or use "
                "model.dtype: float32"
            )


def _warnings(row: Row, *, step: int) -> Iterator[tuple[str, str]]:
    """Of what teaches nothing: a reward that is the same for all, an answer cut off."""
    for name, spread in row.items():
        if name.startswith("rewards/") and name.endswith("/std") and spread == 0:
            reward = name.split("/")[1]
            mean = row.get(f"rewards/{reward}/mean", 0.0)
            yield (
                name,
                f"reward {reward!r} was {mean:g} for every completion of step {step}: it taught "
                "nothing",
            )
    if row.get(CLIPPED, 0.0) > MOSTLY:
        yield (
            CLIPPED,
            f"{row[CLIPPED]:.0%} of the completions of step {step} were cut at "
            "grpo.max_completion_length, before any answer; raise it",
        )
