"""Training that is killed with SIGKILL anywhere, and started again, ends with the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_inputs import tiny_adapter, tiny_inputs, tiny_masks
from tiny_training import NEEDED, grpo_config, sft_config

from lorapar_core import sole
from lorapar_core.sole import sole_trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "kills"))
from kill_points import POINTS
from killed_runs import ROOT, Case, Ending, Runs, Server

GENERATING = {name for name in POINTS if name.startswith("while generating")}
ROLES = {"sft": {"adapter", "figures.jsonl"}}
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
    tuned, rewarded = sft_config(), grpo_config()
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
            runs = Runs(server, cases[name], folder)
            began = time.monotonic()
            assert runs.run(checkpoint_s=1e9) == 0, runs.said
            known[name] = runs.ending(), time.monotonic() - began
            ending = known[name][0]
            assert set(ending.outputs) == ROLES[name]
            assert {step for step, _ in ending.batches} == set(range(STEPS[name]))
        return known[name]

    return find


def check(runs: Runs, straight: Ending) -> None:
    """A last run ends as the undisturbed one, with the same batches, each as often."""
    assert runs.run() == 0, runs.said
    ending = runs.ending()
    assert ending.outputs == straight.outputs
    assert ending.batches == straight.batches


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
    assert runs.run(at=at, nth=nth) == -9, f"never came to {at!r}"
    check(runs, ending)


@pytest.fixture
def runs(server: Server, cases: dict[str, Case], tmp_path: Path) -> Runs:
    return Runs(server, cases["grpo"], tmp_path / "run")


Straight = Callable[[str], tuple[Ending, float]]


def test_another_worker_goes_on_from_the_store(runs: Runs, straight: Straight) -> None:
    """One with another home, that finds nothing in scratch."""
    assert runs.run(at="while accumulating", nth=16) == -9
    shutil.rmtree(runs.store / "scratch")
    runs.home = runs.folder / "elsewhere"
    runs.home.mkdir()
    check(runs, straight("grpo")[0])
    assert [entry["step"] for entry in runs.ending().resumed] == [7]
    assert runs.ending().resumed[0]["exact"] is True
    assert list((runs.store / "progress").iterdir()) == []


@pytest.mark.parametrize("where", ["scratch", "store"])
def test_a_torn_checkpoint_is_left_out_for_the_one_before(
    runs: Runs, straight: Straight, where: str
) -> None:
    assert runs.run(at="while accumulating", nth=16) == -9
    if where == "store":
        shutil.rmtree(runs.store / "scratch")
        (document,) = (runs.store / "progress").iterdir()
        newest = json.loads(document.read_text())["checkpoints"][0]["ref"]["digest"]
        manifest = json.loads((runs.store / "cas" / newest[:2] / newest).read_text())
        digest = manifest["state.safetensors"]["digest"]
        torn = runs.store / "cas" / digest[:2] / digest
    else:
        (runs.store / "progress").rename(runs.store / "away")
        torn = max(runs.store.glob("scratch/*/checkpoints/step-*")) / "state.safetensors"
    content = torn.read_bytes()
    torn.unlink()  # it is a link: the object in the store must keep its bytes
    torn.write_bytes(content[:-1] + b"?")
    check(runs, straight("grpo")[0])
    assert [entry["step"] for entry in runs.ending().resumed] == [6]
    said = {"scratch": "is not whole and is left out", "store": "step 7 is left out"}
    assert said[where] in runs.said


def test_other_surroundings_are_refused_by_name(runs: Runs, straight: Straight) -> None:
    assert runs.run(at="while accumulating", nth=16) == -9
    assert runs.run(threads=2) == 1
    assert "step 7 was made with threads 1, and this process has threads 2" in runs.said
    assert "set runtime.resume: inexact" in runs.said
    check(runs, straight("grpo")[0])  # nothing is lost
    assert [entry["step"] for entry in runs.ending().resumed] == [7]


def test_an_inexact_resume_stands_in_the_record(runs: Runs, straight: Straight) -> None:
    assert runs.run(at="while accumulating", nth=16) == -9
    assert runs.run(at="while accumulating", nth=9, threads=2, resume="inexact") == -9
    assert runs.run(threads=2) == 0, runs.said
    first, second = runs.ending().resumed
    assert first == {"step": 7, "exact": False, "differs": {"threads": ["1", "2"]}}
    assert (second["step"], second["exact"]) == (11, True)
    assert set(runs.ending().outputs) == set(straight("grpo")[0].outputs)


@pytest.mark.parametrize("at", ["while generating: before", "while accumulating"])
def test_sigterm_keeps_a_checkpoint_at_the_end_of_the_step(
    runs: Runs, straight: Straight, at: str
) -> None:
    assert runs.run(at=at, nth=2, number=signal.SIGTERM, checkpoint_s=1e9) == 1
    step = 1 if at == "while accumulating" else 5
    assert f"Stopped: stopped after step {step} of 16" in runs.said
    check(runs, straight("grpo")[0])
    assert [entry["step"] for entry in runs.ending().resumed] == [step]


def test_a_full_disk_ends_with_one_line_and_a_checkpoint_that_serves(
    runs: Runs, straight: Straight
) -> None:
    assert runs.run(at="while accumulating", nth=16) == -9
    assert runs.run(file_limit=4096) == 1
    last = runs.said.splitlines()[-1]
    assert last.startswith("TrainingError: the checkpoint of step 8 can't be written to ")
    assert "File too large" in last
    check(runs, straight("grpo")[0])
    assert [entry["step"] for entry in runs.ending().resumed] == [7]


def test_a_store_that_goes_away_ends_the_run_and_serves_when_it_is_back(
    runs: Runs, straight: Straight
) -> None:
    ended = threading.Event()

    def take_away() -> None:
        while not ended.is_set() and not list(runs.store.glob("scratch/*/checkpoints/step-*3")):
            time.sleep(0.001)
        runs.store.rename(runs.folder / "away")

    taking = threading.Thread(target=take_away)
    taking.start()
    status = runs.run()
    ended.set()
    taking.join()
    assert status == 1
    last = runs.said.splitlines()[-1]
    assert last.startswith(("TrainingError: ", "StoreError: "))
    assert "see to the disk" in last or "bring it back and run it again" in last
    assert not runs.store.exists()
    (runs.folder / "away").rename(runs.store)
    check(runs, straight("grpo")[0])
    assert runs.ending().resumed[0]["step"] >= 2


def test_a_second_trainer_of_the_same_scratch_waits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sole, "SAY_AFTER_S", 0.0)
    program = (
        "import sys; from pathlib import Path; from lorapar_core.sole import sole_trainer\n"
        "with sole_trainer(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        entered = threading.Event()

        def enter() -> None:
            with sole_trainer(tmp_path):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.5)
        assert "another process is training this; waiting for its end" in caplog.text
        first.kill()  # however it ends
        assert entered.wait(10)
        waiting.join()


def points(name: str) -> list[tuple[str, int]]:
    """Every point of the case, the first time and later."""
    generates = name != "sft"
    late = {"sft": 3, "grpo": 9, "pissa": 14}[name]
    once = {"publishing: before", "publishing: the record", "publishing: after the record"}
    once |= {"publishing: after"}
    seldom = {"at an epoch's begin", "at an epoch's end", *GENERATING}
    seldom.add("writing a checkpoint: removing the old")
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
        assert runs.run(at=at, nth=nth) == -9, f"never came to {at!r} ({nth})"
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
