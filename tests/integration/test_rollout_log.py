"""GRPO on completions that can't be drawn again: killed, and resumed from the log of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_inputs import spec, tiny_inputs
from tiny_training import NEEDED, grpo_config

from artifacts import Store
from lorapar_core.parquet import read_table
from lorapar_core.state_files import load_state

sys.path.insert(0, str(Path(__file__).parents[1] / "kills"))
from killed_runs import Case, Runs, Server

ROOT = Path(__file__).parents[2]
STEPS, GENERATIONS = 16, 4
EVERY = STEPS // GENERATIONS
A_FORWARD = 260
"""Of the policy or of the engine's copy: one after the second generation was drawn."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def case(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    inputs = tiny_inputs(tmp_path_factory.mktemp("rollouts") / "inputs", tiny_model)
    given = {role: inputs[role] for role in (*NEEDED, "examples")}
    return Case("grpo", grpo_config(engine="vllm"), given, prepare="fake_vllm:install")


@pytest.fixture
def runs(server: Server, case: Case, tmp_path: Path) -> Runs:
    return Runs(server, case, tmp_path / "run")


def entries(runs: Runs) -> list[Path]:
    """Its log, in order."""
    return sorted(runs.store.glob("scratch/*/rollouts/rank-0-of-1/generation-*"))


def logged(runs: Runs) -> dict[int, list[list[int]]]:
    """Generation -> the tokens of its completions."""
    found = {}
    for entry in entries(runs):
        found[int(entry.name.split("-")[1])] = tokens(entry)
    return found


def tokens(entry: Path) -> list[list[int]]:
    """Of one generation's completions."""
    found: list[list[int]] = load_state(entry, "rollouts")["rollouts"]["completions"]
    return found


def published(runs: Runs, case: Case) -> list[list[str]]:
    """The texts of each generation's completions, sorted, as the run has published them."""
    store = Store.open(runs.store)
    (record,) = store.records()
    table = read_table(store.path(record.outputs["completions.parquet"]))
    size = len(table["completion"]) // GENERATIONS
    assert table["step"] == sorted(table["step"])
    return [sorted(table["completion"][k * size :][:size]) for k in range(GENERATIONS)]


def texts(completions: list[list[int]], case: Case) -> list[str]:
    from lorapar_core.loading import load_tokenizer

    tokenizer = load_tokenizer(case.inputs["base"])
    return sorted(tokenizer.batch_decode(completions, skip_special_tokens=True))


def batches(runs: Runs) -> list[list[tuple[int, str]]]:
    """(step, digest) of each batch that each process in turn computed a loss of: its tokens, both
    models' log-probabilities, advantages."""
    found: list[list[tuple[int, str]]] = []
    for line in (runs.folder / "batches.jsonl").read_text().splitlines():
        fields = json.loads(line)
        if "began" in fields:
            found.append([])
        else:
            found[-1].append((fields["step"], fields["batch"]))
    return found


def test_a_resume_replays_what_was_drawn_before_the_kill(runs: Runs, case: Case) -> None:
    killed = runs.run(at="inside a forward pass", nth=A_FORWARD, checkpoint_s=1e9)
    assert killed == -9, runs.said
    before = logged(runs)
    assert set(before) == {0, 1}
    assert runs.run(checkpoint_s=1e9) == 0, runs.said
    assert published(runs, case)[:2] == [texts(before[k], case) for k in (0, 1)]
    first, second = batches(runs)
    assert {step for step, _ in first} >= set(range(EVERY + 1))
    assert second[: len(first)] == first, "with the same weights all the way"
    assert {step for step, _ in second} == set(range(STEPS))


def test_without_the_log_the_same_kill_gives_other_completions(runs: Runs, case: Case) -> None:
    runs.case = replace(case, prepare="fake_vllm:install_forgetful")
    killed = runs.run(at="inside a forward pass", nth=A_FORWARD, checkpoint_s=1e9)
    assert killed == -9, runs.said
    before = logged(runs)
    assert set(before) == {0, 1}
    assert runs.run(checkpoint_s=1e9) == 0, runs.said
    ours = published(runs, case)
    assert all(ours[k] != texts(before[k], case) for k in (0, 1))
    first, second = batches(runs)
    assert not set(first) & set(second)


def test_a_whole_stage_can_be_had_again_from_its_log(runs: Runs, case: Case) -> None:
    """Killed before its one checkpoint, at the very end: nothing but the log is left."""
    assert runs.run(at="writing a checkpoint: before", checkpoint_s=1e9) == -9, runs.said
    before = logged(runs)
    assert set(before) == set(range(GENERATIONS))
    other = Runs(runs.server, case, runs.folder.with_name("other"))
    shutil.copytree(runs.store / "scratch", other.store / "scratch")
    for each in (runs, other):
        assert each.run(checkpoint_s=1e9) == 0, each.said
    assert published(runs, case) == [texts(before[k], case) for k in range(GENERATIONS)]
    undisturbed, again = batches(runs)
    assert again == undisturbed
    assert runs.ending().outputs == other.ending().outputs
    assert set(runs.ending().outputs) == {"adapter", "completions.parquet", "figures.jsonl"}


def test_of_the_log_there_stays_what_a_checkpoint_may_need(runs: Runs, case: Case) -> None:
    """With a checkpoint each step: those of steps 3 and 4 come before the second generation."""
    assert runs.run(at="while generating: after", nth=2) == -9, runs.said
    before = logged(runs)
    assert set(before) == {1}
    assert runs.run() == 0, runs.said
    assert published(runs, case)[1] == texts(before[1], case)
    (resumed,) = runs.ending().resumed
    assert (resumed["step"], resumed["exact"]) == (EVERY, True)


def test_a_worker_without_the_log_draws_anew(runs: Runs, case: Case) -> None:
    assert runs.run(at="while generating: after", nth=2) == -9, runs.said
    before = logged(runs)
    shutil.rmtree(runs.store / "scratch")
    assert runs.run(at="while generating: after", nth=1) == -9, runs.said
    anew = logged(runs)
    assert set(anew) == set(before) == {1}
    assert anew != before
    assert runs.run() == 0, runs.said
    assert published(runs, case)[1] == texts(anew[1], case)


def test_a_log_of_another_past_is_dropped(runs: Runs, case: Case) -> None:
    """One worker has drawn three generations; another, which began anew, got past the second."""
    stopped = runs.run(at="while generating: after", nth=3, checkpoint_s=1e9)
    assert stopped == -9, runs.said
    before = logged(runs)
    assert set(before) == {0, 1, 2}
    scratch, aside = runs.store / "scratch", runs.folder / "scratch of the first"
    scratch.rename(aside)
    assert runs.run(at="writing a checkpoint: before", nth=2 * EVERY) == -9, runs.said
    shutil.rmtree(scratch)
    aside.rename(scratch)
    assert runs.run() == 0, runs.said
    (resumed,) = runs.ending().resumed
    assert resumed["step"] == 2 * EVERY - 1
    assert published(runs, case)[2] != texts(before[2], case)


def test_a_log_of_other_prompts_is_refused(runs: Runs, case: Case) -> None:
    assert runs.run(at="inside a forward pass", nth=A_FORWARD, checkpoint_s=1e9) == -9, runs.said
    document = entries(runs)[0] / "rollouts.json"
    state = load_state(entries(runs)[0], "rollouts")
    document.write_text(document.read_text().replace(state["prompts"], "0" * 64))
    assert runs.run(checkpoint_s=1e9) == 1
    assert "generation-00000000-step-00000000 is of other prompts (000000000000, these" in runs.said
    assert "remove it" in runs.said
    shutil.rmtree(entries(runs)[0])
    assert runs.run(checkpoint_s=1e9) == 0, runs.said


def test_a_full_disk_ends_with_one_line(runs: Runs) -> None:
    assert runs.run(file_limit=256, checkpoint_s=1e9) == 1
    last = runs.said.splitlines()[-1]
    assert last.startswith("TrainingError: generation 0 can't be written to ")
    assert "File too large" in last


def start_two(given: Any, out: Path) -> subprocess.Popen[str]:
    """The stage in two processes that draw by the fake, started by torchrun."""
    given.scratch.mkdir(exist_ok=True)
    file = given.scratch / "spec.json"
    file.write_text(given.to_json())
    words = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    return subprocess.Popen(
        [sys.executable, *words, str(ROOT / "tests" / "fake_vllm.py"), "grpo", str(file), str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_process_has_a_log_and_all_replay_or_none(case: Case, tmp_path: Path) -> None:
    given = spec("grpo", case.config, case.inputs, tmp_path / "s", runtime={"checkpoint_s": 1e9})
    folders = [given.scratch / "rollouts" / f"rank-{rank}-of-2" for rank in (0, 1)]

    def drawn(generation: int) -> list[Path]:
        found = (list(f.glob(f"generation-{generation:08}-*")) for f in folders)
        return [path for paths in found for path in paths]

    def killed(out: Path) -> dict[int, list[str]]:
        """Generation -> the texts of both processes, as logged when they were killed."""
        process = start_two(given, out)
        while len(drawn(1)) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        family = [*psutil.Process(process.pid).children(recursive=True)]
        for each in (process, *family):
            each.kill()
        process.communicate()
        psutil.wait_procs(family, timeout=10)
        return {k: texts([c for path in drawn(k) for c in tokens(path)], case) for k in (0, 1)}

    before = killed(tmp_path / "killed")
    shutil.rmtree(next(folders[1].glob("generation-00000001-*")))  # as if it had not got so far
    process = start_two(given, tmp_path / "again")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    table = read_table(tmp_path / "again" / "completions.parquet")
    size = len(table["completion"]) // GENERATIONS
    found = [sorted(table["completion"][k * size :][:size]) for k in range(2)]
    assert found[0] == before[0]
    assert found[1] != before[1]
