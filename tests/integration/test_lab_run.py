"""The lab's recipe does what it is for: each stage has something to learn, and learns some."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from artifacts import Store
from lorapar_core.parquet import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """A finished run of the recipe."""

    summary: dict[str, Any]
    store: Store

    def table(self, role: str) -> dict[str, list[Any]]:
        _, ref, _ = self.store.resolve(self.summary["artifacts"][role])
        return read_table(self.store.path(ref))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    store = tmp_path_factory.mktemp("lab") / "store"
    command = [sys.executable, "-m", "flows.cli", "run", "lab", "--json", "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Ran(json.loads(done.stdout.splitlines()[-1]), Store.open(store))


def test_sft_and_grpo_both_add(ran: Ran) -> None:
    strict = {stage: found["strict"] for stage, found in ran.summary["metrics"].items()}
    assert strict["base"]["interval_95"][1] < 0.1
    assert strict["sft"]["accuracy"] > strict["base"]["accuracy"] + 0.3
    assert strict["grpo"]["accuracy"] > strict["sft"]["accuracy"]


def test_most_groups_teach(ran: Ran) -> None:
    """A group whose rewards are all equal has no advantage, and so no gradient."""
    table = ran.table("grpo/completions.parquet")
    groups = defaultdict(set)
    rows = zip(table["step"], table["example_id"], table["reward_correctness"], strict=True)
    for step, example_id, reward in rows:
        groups[step, example_id].add(reward)
    assert len(groups) == 20 * 16
    assert sum(len(rewards) > 1 for rewards in groups.values()) > len(groups) / 2


def test_labels_err_as_a_majority_of_these_teachers_does(ran: Ran) -> None:
    """More seldom than one teacher; and not never."""
    examples, labels = ran.table("prepare/examples.parquet"), ran.table("tally/labels.parquet")
    answers = dict(zip(examples["id"], examples["answer"], strict=True))
    wrong: dict[int, list[bool]] = {1: [], 2: []}
    for example_id, label in zip(labels["example_id"], labels["system"], strict=True):
        truth = 1 if answers[example_id].count("\n") == 1 else 2
        wrong[truth].append(label != truth)
    rates = {truth: sum(found) / len(found) for truth, found in wrong.items()}
    assert 0.02 < rates[1] < 0.1
    assert 0.08 < rates[2] < 0.2
