"""`lorapar sweep` from end to end on the tiny model: what is shared, what is compared, what fails.

The sweep is a small one of theta, computed once, through real resident children.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_recipe import tiny_recipe, write_tiny_recipe

from artifacts import Store
from flows import cli, local_sweep
from flows.gathering import is_whole
from flows.sweep_plan import plan_sweep
from flows.sweeps import SWEEPS, Sweep, trials
from lorapar_core.config import Recipe
from lorapar_core.errors import StageFailed

pytestmark = pytest.mark.filterwarnings("ignore:Logger 'lorapar:UserWarning")
LABELS = ("theta 0.3", "theta 0.9", "theta 0.9, random")
TRIALS = 2 * len(LABELS)


@dataclass(frozen=True)
class Swept:
    """A finished sweep."""

    recipe: Path
    store: Path
    code: int
    out: str
    error: str

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    @property
    def records(self) -> Mapping[str, int]:
        """Stage -> how many records the store has."""
        return Counter(r.stage for r in Store.open(self.store, create=False).records())


def small(sweep: Sweep, labels: tuple[str, ...]) -> Sweep:
    """Some of a sweep's points."""
    return replace(
        sweep, points=lambda recipe: [p for p in sweep.points(recipe) if p.label in labels]
    )


@pytest.fixture(autouse=True, scope="module")
def small_theta() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SWEEPS, "theta", small(SWEEPS["theta"], LABELS))
        yield


def sweep(recipe: Path, store: Path, *words: object) -> Swept:
    arguments = ["sweep", "theta", recipe, "--store", store, "--seeds", "0,1", *words]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        code = cli.main([str(word) for word in arguments])
    return Swept(recipe, store, code, out.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def swept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("sweep")
    recipe = write_tiny_recipe(folder / "tiny.yaml", tiny_model)
    done = sweep(recipe, folder / "store", "--json")
    assert done.code == 0, done.error
    return done


@pytest.fixture
def copy(swept: Swept, tmp_path: Path) -> Swept:
    """The sweep's store where it may be harmed."""
    store = tmp_path / "store"
    shutil.copytree(swept.store, store, ignore=shutil.ignore_patterns("views"))
    return replace(swept, store=store)


def test_what_lies_above_the_partition_is_computed_once_a_seed(swept: Swept) -> None:
    assert swept.records == {
        "prepare": 1,
        "vote": 2,
        "tally": 1,
        "initialize": 2,
        "moments": 4,
        "score": 4,
        "profile": 2,
        "partition": TRIALS,
        "sft": TRIALS,
        "evaluate": TRIALS + 1,
        "report": TRIALS,
        "sweep": 1,
    }


def test_a_plan_told_what_the_sweep_has_computed(swept: Swept, tmp_path: Path) -> None:
    """Before any input was known it found the same actions as the keys did."""
    theta = SWEEPS["theta"]
    found = trials(theta, str(swept.recipe), seeds=(0, 1), overrides=local_sweep.with_runtime({}))
    before = plan_sweep(found, store=Store.open(tmp_path / "store", create=False))
    told = {each["stage"]: each["compute"] for each in before["stages"]}
    assert told == {stage: n for stage, n in swept.records.items() if stage != "sweep"}
    after = plan_sweep(found, store=Store.open(swept.store, create=False))
    assert (before["finished"], after["finished"]) == (0, TRIALS)
    assert {each["stage"]: each["cached"] for each in after["stages"]} == told
    assert after["disk_gib"] == 0


def test_the_results_tell_points_and_claims(swept: Swept) -> None:
    results = swept.summary["results"]
    assert [point["label"] for point in results["points"]] == list(LABELS)
    for point in results["points"]:
        (phase,) = point["phases"]
        assert (phase["after"], phase["seeds"]) == ("sft", [0, 1])
        assert phase["low"] <= phase["estimate"] <= phase["high"]
        assert phase["estimate"] == pytest.approx(sum(phase["by_seed"]) / 2, abs=1e-5)
    by_label = {point["label"]: point for point in results["points"]}
    assert by_label["theta 0.9"]["kept_share"] == by_label["theta 0.9, random"]["kept_share"]
    assert by_label["theta 0.3"]["kept_share"]["1"] < by_label["theta 0.9"]["kept_share"]["1"]
    assert by_label["theta 0.9"]["paper"] == [27.3]
    assert [claim["text"] for claim in results["claims"]] == [
        "accuracy rises with theta (slope, from 0 to 1)",
        "theta 0.9 above theta 0.3",
        "importance above random at theta 0.9",
    ]
    assert {claim["verdict"] for claim in results["claims"]} <= {"holds", "fails", "open"}
    assert results["problems"] == 6
    assert swept.summary["failed"] == []


def test_the_page_is_there_and_the_run_is_kept(swept: Swept) -> None:
    page = Path(swept.summary["report"]).read_text()
    assert "<html" in page
    assert "importance above random at theta 0.9" in page
    assert f"lorapar sweep theta {swept.recipe} --seeds 0,1" in page
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(rf"\bmoments +{4 * len(LABELS)} +4 ", text), "asked for by all, computed once"
    assert re.search(rf"\bsft +{TRIALS} +{TRIALS} ", text)
    assert len(re.findall(r"theta 0\.\d(?:, random)? +sft +2 +\d", text)) == len(LABELS)
    digests = set(re.findall(r"\b[0-9a-f]{64}\b", page))
    store = Store.open(swept.store, create=False)
    made = {ref.digest for record in store.records() for ref in record.outputs.values()}
    own = {ref.digest for r in store.records() if r.stage == "sweep" for ref in r.outputs.values()}
    assert made - own <= digests, "every artifact is named"
    assert "Of theta 0.9, seed 0." in text, "whose regions and labels are shown"
    assert 'id="theta"' in page
    assert re.search(r"theta 0\.9, random +sft +loss +\d+ ", text), "training by point"
    (document,) = [
        document
        for name, document in Store.open(swept.store).runs()
        if name.startswith("sweep-theta-tiny-")
    ]
    assert document == swept.summary


def test_a_second_sweep_computes_nothing_and_says_so_in_tables(swept: Swept) -> None:
    before = swept.records
    tables = swept.store.parent / "tables.md"
    again = sweep(swept.recipe, swept.store, "--markdown", tables)
    assert again.code == 0, again.error
    assert "| importance above random at theta 0.9 |" in tables.read_text()
    assert again.error.count("% after sft") == TRIALS
    assert " computed " not in again.error
    assert swept.records == before
    assert "claim" in again.out
    assert swept.summary["report"] in again.out


@pytest.mark.slow
def test_one_more_seed_computes_that_seed(copy: Swept) -> None:
    more = sweep(copy.recipe, copy.store, "--seeds", "2", "--json")
    assert more.code == 0, more.error
    grown = {s: n - copy.records[s] for s, n in replace(copy, store=more.store).records.items()}
    assert more.summary["results"]["seeds"] == [0, 1, 2]
    assert more.records["moments"] == 6
    assert more.records["vote"] == 2
    assert grown["prepare"] == 0


@pytest.mark.parametrize(("stage", "role"), [("sft", "figures.jsonl"), ("profile", "profile.json")])
def test_what_the_page_shows_is_computed_again_where_it_is_lost(
    copy: Swept, stage: str, role: str
) -> None:
    store = Store.open(copy.store, create=False)
    records = sorted(store.records(), key=lambda record: record.key)
    lost = next(record.outputs[role] for record in records if record.stage == stage)
    for record in records:
        if record.stage == "sweep":
            (copy.store / "actions" / f"{record.key}.json").unlink()
    theta = SWEEPS["theta"]
    found = trials(theta, str(copy.recipe), seeds=(0, 1), overrides=local_sweep.with_runtime({}))
    assert all(is_whole(theta, trial, store) for trial in found)
    path = store.path(lost)
    path.unlink()
    done = {trial.name for trial in found if is_whole(theta, trial, store)}
    assert len(done) < len(found), "the trial that needs it counts no more"
    again = sweep(copy.recipe, copy.store, "--json")
    assert again.code == 0, again.error
    assert again.summary["artifacts"] == copy.summary["artifacts"]
    assert path.exists()


@pytest.mark.slow
def test_a_trial_that_fails_loses_no_other(copy: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named at the end, the claims go by the seeds that are left, and the same command goes
    on with it."""
    victim = "theta 0.9, seed 1"
    store = Store.open(copy.store, create=False)
    for record in store.records():
        if record.stage in ("partition", "sft", "evaluate"):
            (copy.store / "actions" / f"{record.key}.json").unlink()
    real = local_sweep.pipeline

    def broken(recipe: Any, runner: Any) -> Any:
        if runner.trial.name == victim:
            raise StageFailed("the process of sft was killed by signal 9")
        return real(recipe, runner)

    with monkeypatch.context() as patch:
        patch.setattr(local_sweep, "pipeline", broken)
        failed = sweep(copy.recipe, copy.store, "--json")
    assert failed.code == 1
    assert f"1 of {TRIALS} trials failed, the others are kept and compared; {victim}: the proc" in (
        failed.error
    )
    assert failed.summary["failed"] == [
        {"trial": victim, "error": "the process of sft was killed by signal 9"}
    ]
    results = failed.summary["results"]
    seeds = {point["label"]: point["phases"][0]["seeds"] for point in results["points"]}
    assert seeds == {"theta 0.3": [0, 1], "theta 0.9": [0], "theta 0.9, random": [0, 1]}
    assert [claim["seeds"] for claim in results["claims"]] == [[0]] * 3
    assert {claim["over"] for claim in results["claims"]} == {"problems"}
    assert "1 of 2 seeds did not finish" in Path(failed.summary["report"]).read_text()

    again = sweep(copy.recipe, copy.store, "--json")
    assert again.code == 0, again.error
    assert again.summary["artifacts"] == copy.summary["artifacts"], "as if nothing had happened"


def test_two_trials_are_under_way_at_a_time(
    copy: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread each, unless the recipe's runtime is set otherwise."""
    both, most, guard = threading.Barrier(2, timeout=60), [0, 0], threading.Lock()

    def pipeline(recipe: Recipe, _runner: Any) -> Any:
        assert (recipe.runtime.children, recipe.runtime.threads) == (2, 1)
        assert recipe.runtime.child == "resident"
        with guard:
            most[0] += 1
            most[1] = max(most)
        both.wait()
        with guard:
            most[0] -= 1
        raise StageFailed("enough seen")

    monkeypatch.setattr(local_sweep, "pipeline", pipeline)
    done = sweep(copy.recipe, tmp_path / "other")
    assert f"all {TRIALS} trials failed" in done.error
    assert most[1] == 2


def test_where_every_trial_fails_the_first_says_why(copy: Swept) -> None:
    done = sweep(copy.recipe, copy.store, "--set", "importance.examples=11")
    assert done.code == 1
    assert f"all {TRIALS} trials failed; theta 0.3, seed 0: System " in done.error
    assert f"; and {TRIALS - 3} more" in done.error


@pytest.mark.slow
def test_the_labels_are_held_against_the_truth_where_it_is_known(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Of generated problems it is: each way of asking has its teachers' errors beside its
    labels'."""
    third = {"name": "third", "provider": "local", "wording": "introspective"}
    teachers = [*tiny_recipe(tiny_model)["teachers"], third]
    importance = {"examples": 1}
    recipe = write_tiny_recipe(
        tmp_path / "tiny.yaml", tiny_model, teachers=teachers, importance=importance
    )
    arguments = ["sweep", "labels", recipe, "--store", tmp_path / "store", "--seeds=0", "--json"]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        cli.main([str(word) for word in arguments])  # a tiny model's labels may be one-sided
    lines = out.getvalue().splitlines()
    assert lines, error.getvalue()
    results = json.loads(lines[-1])["results"]
    strategies = {found["label"]: found for found in results["truth"]["strategies"]}
    done = {point["label"] for point in results["points"] if point["phases"]}
    assert set(strategies) == done
    assert "3 teachers" in done
    assert set(strategies["3 teachers"]["teachers"]) == {"first", "second", "third"}
    for found in strategies.values():
        assert found["labels"]["examples"] == results["truth"]["examples"] == 24
        for rates in (found["labels"], *found["teachers"].values()):
            assert 0 <= rates["all"] <= 1
    alone = strategies.get("one teacher")
    if alone:
        assert alone["labels"] == alone["teachers"]["first"], "its votes are the labels"


def test_nothing_is_left_running(swept: Swept) -> None:
    assert swept
    left = [c for c in psutil.Process().children() if "lorapar_core" in " ".join(c.cmdline())]
    assert left == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "thetta", "demo"), "no sweep 'thetta', did you mean theta?"),
        (("sweep", "theta", "dem"), "no recipe 'dem', did you mean demo?"),
        (("sweep", "theta", "demo", "--set", "partition.theta=1"), "partition.theta is set, and"),
        (("sweep", "theta", "demo", "--set", "sft.max_step=1"), "did you mean max_steps?"),
    ],
    ids=str,
)
def test_a_mistake_is_named_before_any_work(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, "--store", str(tmp_path / "store")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_seeds_given_again_are_more_seeds(tmp_path: Path) -> None:
    words = ["sweep", "order", "lab", "--plan", "--json", "--store", str(tmp_path)]
    for given, seeds in (([], [0, 1, 2]), (["--seeds", "3,1", "--seeds=2"], [3, 1, 2])):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert cli.main([*words, *given]) == 0
        assert json.loads(out.getvalue())["seeds"] == seeds
    with pytest.raises(SystemExit):
        cli.main([*words, "--seeds", "3,1", "--seeds=1"])


@pytest.mark.parametrize("seeds", ["", "1,1", "a", "1.5", "-1"])
def test_seeds_that_are_none_are_refused(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["sweep", "theta", "demo", f"--seeds={seeds}"])
    assert "are no seeds" in capsys.readouterr().err
