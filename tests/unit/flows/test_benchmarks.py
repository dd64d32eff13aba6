"""A recipe's benchmarks: refused before any work where they can't be, and seen in a plan."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_benchmarks import HUMANEVAL, gsm8k_rows, mmlu_rows, set_config, write_rows
from tiny_recipe import STAGES, tiny_recipe

from artifacts import Store
from flows import benchmarks as composing
from flows.pipeline import check
from flows.plan import plan
from lorapar_core.config import MMLU_SUBJECTS, Recipe
from lorapar_core.data.benchmark_sets import gather
from lorapar_core.errors import ConfigError, DataError, SandboxError
from lorapar_core.recipe import load_recipe, parse_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "gsm8k.jsonl", gsm8k_rows(6))
    write_rows(folder / "shots.jsonl", gsm8k_rows(3, start=90))
    write_rows(folder / "mmlu.jsonl", mmlu_rows(3))
    write_rows(folder / "humaneval.jsonl", HUMANEVAL)
    write_rows(folder / "bad.jsonl", [*mmlu_rows(1), {"question": "?", "choices": ["a"]}])
    return folder


def recipe(model: Path, *benchmarks: dict[str, Any], **evaluation: Any) -> Recipe:
    fields = tiny_recipe(model)
    fields["evaluation"] |= {"benchmarks": list(benchmarks), **evaluation}
    return parse_recipe(fields)


def names(recipe: Recipe, folder: Path) -> list[str]:
    planned = plan(recipe, store=Store.open(folder / "store", create=False))
    return [stage["name"] for stage in planned["stages"]]


def test_a_plan_shows_them(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    found = names(
        recipe(
            tiny_model,
            {"task": "gsm8k", "source": str(data / "gsm8k.jsonl")},
            {"name": "m", "task": "mmlu", "source": str(data / "mmlu.jsonl"), "models": "trained"},
            {"name": "h", "task": "humaneval", "source": str(data / "humaneval.jsonl")}
            | {"models": "base"},
        ),
        tmp_path,
    )
    assert [name for name in found if name not in STAGES] == [
        "benchmark[gsm8k]",
        "benchmark[m]",
        "benchmark[h]",
        "evaluate[base/gsm8k]",
        "evaluate[base/h]",
        "evaluate[sft/gsm8k]",
        "evaluate[sft/m]",
        "evaluate[grpo/gsm8k]",
        "evaluate[grpo/m]",
    ]
    assert [name for name in found if name in STAGES] == [*STAGES], "the recipe's own stay"


def test_the_base_may_be_left_out(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    gsm8k = {"task": "gsm8k", "source": str(data / "gsm8k.jsonl")}
    found = names(recipe(tiny_model, gsm8k, base=False), tmp_path)
    assert "evaluate[base/gsm8k]" not in found
    assert "evaluate[sft/gsm8k]" in found


@pytest.mark.parametrize(
    ("benchmark", "error", "said"),
    [
        ({"task": "gsm8k", "source": "DATA/none.jsonl"}, DataError, "none.jsonl: no such file"),
        (
            {"task": "gsm8k", "source": "DATA/gsm8k.jsonl", "shots": 1}
            | {"shots_source": "DATA/none.jsonl"},
            DataError,
            "none.jsonl: no such file",
        ),
        (
            {"task": "gsm8k", "source": "DATA/gsm8k.jsonl", "shots": 5}
            | {"shots_source": "DATA/shots.jsonl"},
            DataError,
            "has 3 worked examples that aren't asked as well, and shots is 5",
        ),
        (
            {"task": "mmlu", "source": "DATA/mmlu.jsonl", "subjects": ["sociology"]},
            DataError,
            "no problem of subject 'sociology'",
        ),
        ({"task": "mmlu", "source": "DATA/bad.jsonl"}, DataError, "bad.jsonl line 3: 1 choices"),
        (
            {"task": "file", "source": "DATA/mmlu.jsonl", "prompt": "chat"},
            DataError,
            "use prompt: plain",
        ),
        (
            {"task": "file", "source": "DATA/gsm8k.jsonl", "samples": 3},
            DataError,
            "the rows carry no tests; use 1",
        ),
        ({"task": "file", "source": "arithmetic"}, ConfigError, "whose problems have no file"),
        ({"task": "file", "source": "gsmk8"}, ConfigError, "did you mean gsm8k?"),
        (
            {"task": "gsm8k", "source": "DATA/gsm8k.jsonl", "revision": "main"},
            ConfigError,
            "has a revision, which a file has none of",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_evaluated_is_refused_by_a_plan(
    tiny_model: Path,
    data: Path,
    tmp_path: Path,
    benchmark: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    text = json.dumps(benchmark).replace("DATA", str(data))
    given = json.loads(text)
    with pytest.raises(error, match=said):
        names(recipe(tiny_model, given), tmp_path)
    assert not (tmp_path / "store").exists()


def test_programs_need_a_sandbox(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passes(*_: Any, **__: Any) -> bool:
        raise SandboxError("the sandbox can't be closed: no namespaces")

    monkeypatch.setattr("lorapar_core.sandbox.passes", passes)
    coded = recipe(tiny_model, {"task": "humaneval", "source": str(data / "humaneval.jsonl")})
    with pytest.raises(ConfigError, match=r"run code need a sandbox, and .*: no namespaces"):
        check(coded)
    own = recipe(tiny_model, {"task": "file", "source": str(data / "humaneval.jsonl")})
    running: Any = SimpleNamespace(store=Store.open(tmp_path / "store"), downloads=True)
    with pytest.raises(ConfigError, match="run code need a sandbox"):
        composing.located_benchmarks(own, running)
    for planned in (coded, own):
        check(planned, runs=False)
        assert names(planned, tmp_path), "a plan runs nothing"
    written = recipe(tiny_model, {"task": "gsm8k", "source": str(data / "gsm8k.jsonl")})
    check(written)


FILE = {"task": "file", "source": "a.jsonl"}


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ({"task": "gsmk8"}, "task: 'gsmk8' is wrong"),
        ({"task": "file"}, "has task: file and no source"),
        (FILE | {"shots": 1}, "say in shots_source where they come from"),
        ({"task": "gsm8k", "shots_source": "a.jsonl"}, "has a shots_source and shots: 0"),
        ({"task": "humaneval", "shots": 1}, "it takes no shots"),
        ({"task": "gsm8k", "shots": 1, "prompt": "as_sft"}, "training showed no worked examples"),
        ({"task": "mmlu", "prompt": "chat"}, "use prompt: plain"),
        ({"task": "mmlu", "max_new_tokens": 3}, "writes nothing; leave max_new_tokens out"),
        ({"task": "humaneval", "prompt": "as_sft"}, "use prompt: plain or chat"),
        ({"task": "gsm8k", "subjects": ["anatomy"]}, "only task: mmlu has"),
        ({"task": "mmlu", "subjects": ["anatmy"]}, "no subject 'anatmy'; did you mean anatomy?"),
        ({"task": "mmlu", "subjects": ["anatomy", "anatomy"]}, "names a subject twice"),
        ({"task": "mmlu", "samples": 2}, "task mmlu takes 1, greedy"),
        ({"task": "humaneval", "temperature": 0.5}, "samples: 1 is greedy"),
        ({"task": "humaneval", "k": [2]}, "from 1 samples a problem"),
        ({"task": "humaneval", "samples": 9, "k": [3, 1]}, "give rising numbers"),
        ({"task": "humaneval", "samples": 9, "k": []}, "at least 1 item"),
        ({"task": "gsm8k", "shoots": 1}, "unknown field, did you mean shots?"),
        ({"task": "gsm8k", "name": "a/b"}, "name: 'a/b' is wrong"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(benchmark: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        recipe(Path("model"), benchmark)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_two_of_a_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="stand twice; give each a name of its own"):
        recipe(Path("model"), {"task": "gsm8k"}, {"task": "svamp", "name": "gsm8k"})
    recipe(Path("model"), {"task": "gsm8k"}, {"task": "gsm8k", "name": "five", "shots": 5})


def test_a_base_that_nobody_evaluates_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"and evaluation\.base is false"):
        recipe(Path("model"), {"task": "gsm8k", "models": "base"}, base=False)


def test_paths_go_by_the_recipes_own_folder(data: Path, tmp_path: Path) -> None:
    fields = tiny_recipe("model")
    fields["evaluation"]["benchmarks"] = [
        {**FILE, "source": "mine.jsonl", "shots": 1, "shots_source": "own/shots.csv"},
        {"task": "gsm8k"},
    ]
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(fields))
    found = load_recipe(file, recipes=tmp_path).evaluation.benchmarks
    assert found[0].source == str(tmp_path / "mine.jsonl")
    assert found[0].shots_source == str(tmp_path / "own" / "shots.csv")
    assert found[1].source == ""


def test_mmlu_has_57_subjects() -> None:
    assert len(MMLU_SUBJECTS) == len(set(MMLU_SUBJECTS)) == 57
    assert list(MMLU_SUBJECTS) == sorted(MMLU_SUBJECTS)


@pytest.mark.real_data
def test_published_sets_are_read_whole(shared_data: Path) -> None:
    mmlu = {"set": shared_data / "mmlu/test.jsonl.gz"}
    mmlu["shots_set"] = shared_data / "mmlu/dev.jsonl.gz"
    shown = gather(set_config("mmlu", shots=5), mmlu)
    assert len(shown.problems) == 14042
    assert sorted(shown.prefixes) == list(MMLU_SUBJECTS)
    gsm8k = {"set": shared_data / "gsm8k/test.jsonl.gz"}
    gsm8k["shots_set"] = shared_data / "gsm8k/train.jsonl.gz"
    assert len(gather(set_config("gsm8k", shots=1), gsm8k).problems) == 1319
    for task, path, count in (
        ("svamp", "svamp/svamp_test.jsonl", 1000),
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164),
    ):
        assert len(gather(set_config(task), {"set": shared_data / path}).problems) == count
