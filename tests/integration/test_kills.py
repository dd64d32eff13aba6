"""Training that is killed with SIGKILL anywhere, and started again, ends with the same bytes."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_inputs import MODEL, tiny_adapter, tiny_inputs, tiny_masks

from lorapar_core.config import GrpoConfig, SftConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "kills"))
from kill_points import POINTS
from killed_runs import Case, Ending, Runs, Server

TOP = {"system": 2, "data": "system", "epochs": 2.0, "model": MODEL}
SFT = {"learning_rate": 1e-2, "weight_decay": 0.1, "batch_size": 2, "accumulation": 2}
GRPO = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "group_size": 4,
    "batch_size": 4,
    "accumulation": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_completion_length": 6,
    "kl_coefficient": 0.1,
    "rewards": {"integer": 1.0, "tag_credit": 0.5},
}
NEEDED = ("base", "adapter", "masks", "labels", "tokens")
GENERATING = {name for name in POINTS if name.startswith("while generating")}
ROLES = {"sft": {"adapter", "metrics.jsonl"}}
ROLES["grpo"] = ROLES["pissa"] = {*ROLES["sft"], "completions.parquet"}
STEPS = {"sft": 4, "grpo": 16, "pissa": 16}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def cases(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("kills")
    inputs = tiny_inputs(folder / "inputs", tiny_model)
    sft = SftConfig.model_validate(SFT).model_dump(exclude={"prompt"})
    unread = {"prompt", "system_prompt", "max_prompt_length"}
    grpo = GrpoConfig.model_validate(GRPO).model_dump(exclude=unread)
    tuned = {"sft": sft, "dropout": 0.1, **TOP}
    rewarded = {"grpo": grpo, "answer_format": "hash", **TOP}
    adapter = tiny_adapter(folder / "pissa", tiny_model, init="pissa")
    residual = {
        "base": folder / "pissa" / "base",
        "adapter": adapter,
        "masks": tiny_masks(folder / "pissa masks", adapter),
    }
    needed = {role: inputs[role] for role in NEEDED}
    asked = {**needed, "examples": inputs["examples"]}
    return {
        "sft": Case("sft", tuned, needed),
        "grpo": Case("grpo", rewarded, asked),
        "pissa": Case("grpo", rewarded, {**asked, **residual}),
    }


@pytest.fixture(scope="module")
def straight(
    server: Server, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Ending, float]]:
    """How a case ends undisturbed, without any checkpoint on the way, and its seconds."""
    known: dict[str, tuple[Ending, float]] = {}

    def find(name: str) -> tuple[Ending, float]:
        if name not in known:
            folder = tmp_path_factory.mktemp("straight")
            runs = Runs(server, cases[name], folder, {"checkpoint_s": 1e9})
            began = time.monotonic()
            assert runs.run() == 0, "\n".join(server.said)
            known[name] = runs.ending(), time.monotonic() - began
            ending = known[name][0]
            assert set(ending.outputs) == ROLES[name]
            assert {step for step, _ in ending.batches} == set(range(STEPS[name]))
        return known[name]

    return find


def check(runs: Runs, straight: Ending) -> None:
    """A last run ends as the undisturbed one, with the same batches, each as often."""
    assert runs.run() == 0, "\n".join(runs.server.said)
    ending = runs.ending()
    assert ending.outputs == straight.outputs
    assert ending.batches == straight.batches
    left = runs.folder / "store" / "progress"
    assert list(left.iterdir()) == []


QUICK = [
    ("sft", "while accumulating", 5),
    ("sft", "writing a checkpoint: no manifest", 2),
    ("sft", "publishing: an object", 7),
    ("grpo", "inside a forward pass", 60),
    ("grpo", "while generating: after", 3),
    ("grpo", "inside a step: after the optimizer", 5),
    ("pissa", "at an epoch's end", 1),
    ("pissa", "publishing: the record", 1),
]


@pytest.mark.parametrize(("name", "at", "nth"), QUICK)
def test_killed_once(
    server: Server,
    cases: dict[str, Case],
    straight: Callable[[str], tuple[Ending, float]],
    tmp_path: Path,
    name: str,
    at: str,
    nth: int,
) -> None:
    ending, _ = straight(name)
    runs = Runs(server, cases[name], tmp_path / "run")
    assert runs.run(kill={"at": at, "nth": nth}) == -9, f"never came to {at!r}"
    check(runs, ending)


def points(name: str) -> list[tuple[str, int]]:
    """Every point of the case, the first time and later."""
    generates = name != "sft"
    late = {"sft": 3, "grpo": 9, "pissa": 14}[name]
    once = {"publishing: before", "publishing: the record", "publishing: after the record"}
    once |= {"publishing: after"}
    seldom = {"at an epoch's begin", "at an epoch's end", *GENERATING}
    found = []
    for at in POINTS:
        if at in GENERATING and not generates:
            continue
        found.append((at, 1))
        if at not in once:
            found.append((at, 2 if at in seldom else late))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", ["sft", "grpo", "pissa"])
def test_killed_at_every_point_and_at_random_times(
    server: Server,
    cases: dict[str, Case],
    straight: Callable[[str], tuple[Ending, float]],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Over 100 kills in all three; `-s` shows how many."""
    ending, seconds = straight(name)
    kills = 0
    for k, (at, nth) in enumerate(points(name)):
        runs = Runs(server, cases[name], tmp_path / f"point {k}")
        assert runs.run(kill={"at": at, "nth": nth}) == -9, f"never came to {at!r} ({nth})"
        kills += 1
        check(runs, ending)
    draw = random.Random(name)
    for k in range(8):
        runs = Runs(server, cases[name], tmp_path / f"random {k}")
        for _ in range(draw.randint(1, 3)):
            kills += runs.run(kill_after_s=draw.uniform(0, 1.2 * seconds)) == -9
        check(runs, ending)
    with capsys.disabled():
        print(f"\n{name}: {kills} kills, all ended with the same bytes")
