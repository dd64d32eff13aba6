"""`lorapar run` from end to end, on a tiny random model and problems that the project makes.

One store is computed once, in this process; tests that change it work on a copy. The stages run in
real child processes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_recipe import STAGES, write_tiny_recipe

from artifacts import Record, Ref, Store
from flows import cli

# Prefect, once another test has imported it, listens to our loggers and misses its flow here.
pytestmark = pytest.mark.filterwarnings("ignore:Logger 'lorapar:UserWarning")
ROOT = Path(__file__).parents[2]
FROM_PARTITION = {"partition", "sft", "evaluate[sft]", "grpo", "evaluate[grpo]", "report"}
TIMED = {
    "vote[first]/vote_log.parquet",
    "vote[second]/vote_log.parquet",
    "sft/metrics.jsonl",
    "grpo/metrics.jsonl",
}
"""Roles that hold times, and that nothing reads."""


@dataclass(frozen=True)
class Computed:
    """A finished run."""

    recipe: Path
    store: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    out: str
    error: str

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    def actions(self, action: str) -> set[str]:
        stages = self.summary["stages"]
        return {name for name, stage in stages.items() if stage["action"] == action}


def lorapar(*arguments: object) -> Done:
    """The command in this process."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        code = cli.main([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), error.getvalue())


def run(recipe: Path, store: Path, *changes: str) -> Done:
    settings = [word for change in changes for word in ("--set", change)]
    return lorapar("run", recipe, "--json", "--store", store, *settings)


def process(recipe: Path, store: Path, *, hash_seed: int) -> subprocess.Popen[str]:
    """`lorapar run` as a process of its own."""
    command = [sys.executable, "-m", "flows.cli", "run", recipe, "--json", "--store", store]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def computed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Computed:
    folder = tmp_path_factory.mktemp("local-run")
    recipe = write_tiny_recipe(folder / "tiny.yaml", tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "0")  # for the child processes
        done = run(recipe, folder / "store")
    assert done.code == 0, done.error
    assert done.actions("computed") == set(STAGES)
    return Computed(recipe, folder / "store", done.summary)


@pytest.fixture
def copy(computed: Computed, tmp_path: Path) -> Computed:
    """The computed store where it may be harmed."""
    store = tmp_path / "store"
    shutil.copytree(computed.store, store, ignore=shutil.ignore_patterns("views"))
    return Computed(computed.recipe, store, computed.summary)


def artifact(where: Computed, role: str) -> Ref:
    digest = where.summary["artifacts"][role]
    return Store.open(where.store, create=False).resolve(digest)[1]


def object_path(where: Computed, digest: str) -> Path:
    return where.store / "cas" / digest[:2] / digest


def flip(path: Path) -> None:
    """Change one byte and keep size and time, as a bad disk does."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def listing(*roots: Path) -> dict[str, tuple[int, int]]:
    """Every path with its size and time."""
    paths = [path for root in roots for path in (root, *root.rglob("*"))]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


# The first run


def test_a_run_ends_with_its_summary(computed: Computed) -> None:
    summary = computed.summary
    assert tuple(summary["stages"]) == STAGES, "in the order of the pipeline"
    assert set(summary["metrics"]) == {"base", "sft", "grpo"}
    assert {metrics["n"] for metrics in summary["metrics"].values()} == {6}
    assert "<html" in Path(summary["report"]).read_text()
    assert (Path(summary["adapter"]) / "adapter_model.safetensors").is_file()
    for digest in summary["artifacts"].values():
        assert len(digest) == 64
    assert [document for _, document in Store.open(computed.store).runs()][-1] == summary


def test_the_runs_page_tells_what_it_took_and_the_report_does_not(computed: Computed) -> None:
    page = Path(computed.summary["report"]).read_text()
    report = object_path(computed, computed.summary["artifacts"]["report"]).read_text()
    command = f"lorapar run {computed.recipe}"
    assert command in page
    assert command not in report
    assert str(computed.store) not in report
    assert '<th scope="col" class="n">seconds</th>' in page
    assert ">seconds</th>" not in report
    assert all(digest in page for digest in computed.summary["artifacts"].values())
    taken = {record.name: record.provenance["footprint"] for record in records(computed)}
    assert all(figures["peak_bytes"] > 10 * 2**20 for figures in taken.values())
    for name in ("sft", "grpo"):
        figures = taken[name]
        assert 0 < figures["active_elements"] < figures["elements"]
        least = 8 * figures["active_elements"]  # two float32 moments an element
        assert least <= figures["optimizer_bytes"] < least + 4096
        assert figures["tokens_per_second"] > 0
        assert f"{figures['active_elements']:,} (" in page


def records(where: Computed) -> list[Record]:
    return list(Store.open(where.store, create=False).records())


def test_training_moved_the_adapter(computed: Computed) -> None:
    made = computed.summary["artifacts"]
    assert len({made["initialize/adapter"], made["sft/adapter"], made["grpo/adapter"]}) == 3
    assert made["adapter"] == made["grpo/adapter"]


def test_nothing_is_left_behind(computed: Computed) -> None:
    """Scratch is emptied, and the run's children are gone."""
    left = [path for name in ("scratch", "tmp") for path in (computed.store / name).iterdir()]
    assert left == []
    assert [c for c in psutil.Process().children() if "lorapar_core" in " ".join(c.cmdline())] == []


# The runs after it


def test_a_second_run_is_all_cached_and_the_same(computed: Computed) -> None:
    done = run(computed.recipe, computed.store)
    assert done.code == 0
    assert done.actions("cached") == set(STAGES)
    assert done.summary["artifacts"] == computed.summary["artifacts"]
    assert done.summary["metrics"] == computed.summary["metrics"]


def test_a_cached_run_imports_neither_prefect_nor_torch(computed: Computed, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from flows.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print('loaded:', *(m for m in ('torch', 'prefect', 'pyarrow') if m in sys.modules))\n"
        "sys.exit(code)\n"
    )
    arguments = ["run", str(computed.recipe), "--json", "--store", str(computed.store)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, summary, loaded = done.stdout.splitlines()
    assert loaded == "loaded:"
    assert {stage["action"] for stage in json.loads(summary)["stages"].values()} == {"cached"}
    assert done.stderr.count("cached") == len(STAGES)
    assert list(tmp_path.iterdir()) == [], "nothing is written to the home"


def test_what_only_changes_how_it_runs_computes_nothing(computed: Computed) -> None:
    changes = ("runtime.child=once", "runtime.threads=2", "runtime.children=2")
    done = run(computed.recipe, computed.store, *changes)
    assert done.actions("cached") == set(STAGES)


def test_a_new_theta_computes_partition_and_what_follows(copy: Computed) -> None:
    done = run(copy.recipe, copy.store, "partition.theta=0.5")
    assert done.code == 0, done.error
    assert done.actions("computed") == FROM_PARTITION
    assert done.actions("cached") == set(STAGES) - FROM_PARTITION
    assert done.summary["artifacts"]["adapter"] != copy.summary["artifacts"]["adapter"]
    again = run(copy.recipe, copy.store)
    assert again.actions("computed") == set(), "the former theta is still there"


def test_another_test_set_asks_no_teacher_again(copy: Computed) -> None:
    """Training examples and test problems are artifacts of their own."""
    done = run(copy.recipe, copy.store, "data.test_examples=7")
    assert done.code == 0, done.error
    tested = {"prepare", "evaluate[base]", "evaluate[sft]", "evaluate[grpo]", "report"}
    assert done.actions("computed") == tested
    assert done.summary["metrics"]["base"]["n"] == 7


@pytest.mark.slow
def test_stages_are_an_ordered_list(copy: Computed) -> None:
    """Reversed as in the paper's ablation, repeated, and left out altogether."""
    order = (
        "stages=[{kind: grpo, system: 2}, {kind: sft, system: 1}, "
        "{kind: grpo, system: all, data: all, epochs: 0.5}]"
    )
    done = run(copy.recipe, copy.store, order)
    assert done.code == 0, done.error
    names = list(done.summary["stages"])
    after = names[names.index("evaluate[base]") + 1 :]
    assert after == [
        *("grpo", "evaluate[grpo]", "sft", "evaluate[sft]"),
        *("grpo[2]", "evaluate[grpo[2]]", "report"),
    ]
    assert set(after) <= done.actions("computed")
    adapters = {done.summary["artifacts"][f"{name}/adapter"] for name in ("grpo", "sft", "grpo[2]")}
    assert len(adapters) == 3
    none = run(copy.recipe, copy.store, "stages=[]")
    assert none.code == 0, none.error
    assert list(none.summary["metrics"]) == ["base"]


# Harm


def test_a_corrupt_object_is_set_aside_and_made_again_in_the_same_run(copy: Computed) -> None:
    """One that the run itself reads, and one that a child process is given."""
    agreement = artifact(copy, "tally/agreement.json")
    importance = artifact(copy, "score[1]/importance.safetensors")
    for ref in (agreement, importance):
        flip(object_path(copy, ref.digest))

    done = run(copy.recipe, copy.store, "partition.theta=0.95", "stages=[{kind: sft, system: 1}]")

    assert done.code == 0, done.error
    computed = done.actions("computed")
    assert {"partition", "sft"} <= computed
    assert {"prepare", "initialize", "moments[1/0]", "score[2]"} <= done.actions("cached")
    for ref in (agreement, importance):
        assert len(list((copy.store / "quarantine").glob(f"{ref.digest}.*"))) == 1
        assert object_path(copy, ref.digest).is_file(), "made again, with the same bytes"
    assert Store.open(copy.store).verify().ok


def test_what_only_the_summary_reads_is_made_again_in_the_same_run(copy: Computed) -> None:
    metrics = artifact(copy, "evaluate[sft]/metrics.json")
    flip(object_path(copy, metrics.digest))
    done = run(copy.recipe, copy.store)
    assert done.code == 0, done.error
    # Whichever the pipeline comes to first of those that came to these very figures.
    (computed,) = done.actions("computed")
    assert computed.startswith("evaluate[")
    assert done.summary["metrics"] == copy.summary["metrics"]
    assert Store.open(copy.store).verify().ok


def test_a_deleted_object_is_made_again(copy: Computed) -> None:
    object_path(copy, artifact(copy, "partition/regions.json").digest).unlink()
    done = run(copy.recipe, copy.store)
    assert done.code == 0, done.error
    assert done.actions("computed") == {"partition"}, "what followed is as it was"
    assert done.summary["artifacts"] == copy.summary["artifacts"]


def test_too_few_examples_stop_the_run_after_the_tally(copy: Computed) -> None:
    records = set((copy.store / "actions").iterdir())
    done = run(copy.recipe, copy.store, "voting.tie=system1", "importance.examples=12")
    assert done.code == 1
    last = done.error.splitlines()[-1]
    assert "too few examples: the labels are" in last
    assert "importance.examples asks for 12 of each; take more data" in last
    new = [
        json.loads(path.read_text()) for path in set((copy.store / "actions").iterdir()) - records
    ]
    assert [record["name"] for record in new] == ["tally"], "kept, and nothing after it"
    assert "moments" not in done.error
    counts = Store.open(copy.store).read_json(Ref.from_json(new[0]["outputs"]["agreement.json"]))
    assert f"{counts['counts']['1']} System 1, {counts['counts']['2']} System 2" in last


@pytest.fixture(scope="module")
def survived(computed: Computed, tmp_path_factory: pytest.TempPathFactory) -> Computed:
    """The same recipe in another store under another hash seed, killed three times on its way."""
    store = tmp_path_factory.mktemp("killed") / "another" / "store"
    finished: set[str] = set()
    for moment in ("prepare", "score[2]", "evaluate[sft]"):
        child = process(computed.recipe, store, hash_seed=4242)
        finished |= _kill_after(child, moment, store, finished)
    last = process(computed.recipe, store, hash_seed=4242)
    out, error = last.communicate(timeout=120)
    assert last.returncode == 0, error
    done = Done(0, out, error)
    assert finished <= done.actions("cached")
    return Computed(computed.recipe, store, done.summary)


def _kill_after(
    child: subprocess.Popen[str], moment: str, store: Path, before: set[str]
) -> set[str]:
    """Kill -9 once `moment` is computed; returns all stages that had been finished by then."""
    assert child.stderr is not None
    assert child.stdout is not None
    told: set[str] = set()
    for line in child.stderr:
        name, _, rest = line.partition(" ")
        if rest.strip().startswith("cached"):
            told.add(name)
        if name == moment and "computed" in rest:
            break
    else:
        pytest.fail(f"the run ended before {moment}")
    assert before <= told, "a finished stage was lost"
    time.sleep(0.2)  # the next stage is under way
    family = psutil.Process(child.pid).children(recursive=True)
    assert family, "a child process runs the stage"
    child.send_signal(signal.SIGKILL)
    child.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == [], "children die with their parent"
    child.stdout.close()
    child.stderr.close()
    return {record.name for record in Store.open(store, create=False).records()}


def test_kill_9_loses_no_finished_stage_and_leaves_no_process(survived: Computed) -> None:
    assert tuple(survived.summary["stages"]) == STAGES
    assert Store.open(survived.store).verify().ok


def test_results_hang_on_no_hash_seed_and_no_store_path(
    computed: Computed, survived: Computed
) -> None:
    """Nor on having been killed, nor on which stages one process ran before."""
    first, second = (
        {role: d for role, d in where.summary["artifacts"].items() if role not in TIMED}
        for where in (computed, survived)
    )
    assert first == second


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_no_process(
    copy: Computed, number: signal.Signals
) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may ignore it\n"
        "from flows.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "run", copy.recipe, "--store", copy.store]
    child = subprocess.Popen(
        [*map(str, command), "--set", "partition.theta=0.55"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stderr is not None
    assert any(line.startswith("partition") and "computed" in line for line in child.stderr)
    family = psutil.Process(child.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(child.pid, number)  # as Ctrl-C does, to all of them
    else:
        child.send_signal(number)
    _, error = child.communicate(timeout=30)
    assert child.returncode == 128 + number
    *others, last = error.splitlines()
    word = "stopped" if number == signal.SIGINT else "stopping"
    assert last == f"lorapar: {word}; what is finished is kept"
    told = ("cached", "computed", " loss ")  # the stage under way may end yet
    assert [line for line in others if not any(word in line for word in told)] == []
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    names = [record.name for record in Store.open(copy.store).records()]
    assert names.count("partition") == 2


# Looking


def test_a_plan_of_what_is_there_shows_it_and_touches_nothing(
    computed: Computed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = listing(computed.store, tmp_path)
    done = lorapar("plan", computed.recipe, "--json", "--store", computed.store)
    planned = {stage["name"]: stage for stage in json.loads(done.out)["stages"]}
    assert tuple(planned) == STAGES
    assert {stage["state"] for stage in planned.values()} == {"cached"}
    assert listing(computed.store, tmp_path) == before


def test_a_plan_of_a_new_theta_shows_what_would_run(computed: Computed, tmp_path: Path) -> None:
    before = listing(computed.store)
    change = ("--set", "partition.theta=0.6")
    done = lorapar("plan", computed.recipe, "--json", "--store", computed.store, *change)
    stages = json.loads(done.out)["stages"]
    assert {stage["name"] for stage in stages if stage["state"] == "compute"} == FROM_PARTITION
    assert json.loads(done.out)["votes"] == 0
    assert json.loads(done.out)["local_votes"] == 0
    known = {stage["name"] for stage in stages if stage["key"]}
    assert {"partition", "evaluate[base]"} <= known
    assert "sft" not in known, "its masks are not made yet"
    assert listing(computed.store) == before


def test_a_plan_for_an_absent_store_does_not_make_it(computed: Computed, tmp_path: Path) -> None:
    done = lorapar("plan", computed.recipe, "--json", "--store", tmp_path / "absent")
    assert {stage["state"] for stage in json.loads(done.out)["stages"]} == {"compute"}
    assert json.loads(done.out)["local_votes"] == 48
    assert list(tmp_path.iterdir()) == []


def test_artifacts_are_listed(computed: Computed) -> None:
    done = lorapar("artifacts", "ls", "--store", computed.store)
    assert done.code == 0
    for name in STAGES:
        assert f"\n{name} " in done.out
    records = json.loads(lorapar("artifacts", "ls", "--json", "--store", computed.store).out)
    digests = {ref["digest"] for record in records for ref in record["outputs"].values()}
    assert set(computed.summary["artifacts"].values()) <= digests


def test_an_artifact_is_shown_with_what_made_it(computed: Computed) -> None:
    digest = computed.summary["artifacts"]["grpo/adapter"]
    shown = json.loads(lorapar("artifacts", "show", digest[:12], "--store", computed.store).out)
    assert (shown["role"], shown["digest"], shown["kind"]) == ("adapter", digest, "dir")
    made_by = shown["made_by"]
    assert made_by["name"] == "grpo"
    assert made_by["inputs"]["adapter"] == computed.summary["artifacts"]["sft/adapter"]
    assert made_by["provenance"]["threads"] == 1

    by_key = lorapar("artifacts", "show", made_by["key"][:12], "--store", computed.store)
    assert json.loads(by_key.out) == made_by


def test_a_good_store_verifies_and_a_bad_one_does_not(computed: Computed, copy: Computed) -> None:
    good = lorapar("artifacts", "verify", "--json", "--store", computed.store)
    assert good.code == 0
    objects = [path for path in (computed.store / "cas").rglob("*") if path.is_file()]
    assert json.loads(good.out)["checked"] == len(objects)

    ref = artifact(copy, "tally/labels.parquet")
    flip(object_path(copy, ref.digest))
    bad = lorapar("artifacts", "verify", "--store", copy.store)
    assert bad.code == 1
    assert ref.digest in bad.out


def test_an_exported_adapter_is_plain_peft(
    computed: Computed, tiny_model: Path, tmp_path: Path
) -> None:
    """As somebody without lorapar loads it: base by its path, adapter by its folder."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    digest = computed.summary["artifacts"]["adapter"]
    done = lorapar("artifacts", "export", digest, folder, "--store", computed.store)
    assert done.code == 0, done.error
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)

    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    ids = torch.tensor([[7, 8, 9, 10]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted_model = PeftModel.from_pretrained(base, folder)
        adapted = adapted_model(ids).logits
    stored = load_file(folder / "adapter_model.safetensors")
    loaded = {k.replace(".default.", "."): v for k, v in adapted_model.state_dict().items()}
    assert stored
    for key, tensor in stored.items():
        assert torch.equal(loaded[key], tensor), key
    assert not torch.equal(plain, adapted)


def test_a_records_key_exports_nothing_and_names_what_it_made(
    computed: Computed, tmp_path: Path
) -> None:
    record = next(r for r in Store.open(computed.store).records() if r.name == "tally")
    done = lorapar(
        "artifacts", "export", record.key[:12], tmp_path / "x", "--store", computed.store
    )
    assert done.code == 2
    made = f"labels.parquet {record.outputs['labels.parquet'].digest[:12]}"
    assert f"{record.key[:12]} is the record of tally; export what it made: " in done.error
    assert made in done.error
    assert not (tmp_path / "x").exists()


def test_an_export_is_the_users_own(computed: Computed, tmp_path: Path) -> None:
    """Writing to it harms nothing."""
    digest = computed.summary["artifacts"]["tally/agreement.json"]
    lorapar("artifacts", "export", digest, tmp_path / "out", "--store", computed.store)
    (tmp_path / "out" / "agreement.json").write_text("mine now")
    assert lorapar("artifacts", "verify", "--store", computed.store).code == 0
