"""What a plan says of memory and disk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import write_rows
from tiny_gguf import write_tiny_gguf
from tiny_recipe import tiny_recipe, write_tiny_recipe

from artifacts import Store
from flows import needs
from flows.cli import main
from flows.pipeline import pipeline
from flows.plan import plan
from lorapar_core import process
from lorapar_core.config import Recipe, RuntimeConfig
from lorapar_core.data.benchmark_sets import Shown
from lorapar_core.data.problems import Problem
from lorapar_core.memory import Asked, Lengths
from lorapar_core.model_shape import read_shape
from lorapar_core.parquet import write_table
from lorapar_core.prepare import TOKENS
from lorapar_core.recipe import parse_recipe

ROOT = Path(__file__).parents[3]
TINY_ELEMENTS = 3584
"""Of rank 2: A and B of six modules in both of the tiny model's layers."""


def test_a_plan_tells_the_largest_stage_and_its_parts(tiny_model: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    planned = plan(parse_recipe(tiny_recipe(tiny_model)), store=store)
    details = planned["memory"]
    assert details["device"] == "cpu"
    assert details["stage"] in ("sft", "grpo")  # trl's libraries outweigh a tiny model
    assert planned["memory_gib"] == pytest.approx(sum(details["parts_gib"].values()), abs=0.01)
    assert planned["memory_gib"] > details["parts_gib"]["libraries"] > 0.3


def test_a_longer_batch_takes_more(tiny_model: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    fields = tiny_recipe(tiny_model)
    before = plan(parse_recipe(fields), store=store)["memory_gib"]
    fields["sft"]["batch_size"] = 64
    assert plan(parse_recipe(fields), store=store)["memory_gib"] > before


def test_an_absent_model_gives_null_and_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_tiny_recipe(tmp_path / "recipe.yaml", "nobody/such-a-model")
    arguments = ["plan", str(file), "--store", str(tmp_path / "store")]
    assert main([*arguments, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert planned["memory_gib"] is planned["memory"] is planned["disk_gib"] is None
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "\nmemory: unknown (the model is not on this machine yet" in shown
    assert "\ndisk: unknown\n" in shown


def test_a_person_sees_the_parts_that_count(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_tiny_recipe(tmp_path / "recipe.yaml", tiny_model)
    assert main(["plan", str(file), "--store", str(tmp_path / "store")]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("memory"))
    parts = r"libraries 0\.5(, [a-z ]+ \d\.\d)*"
    assert re.fullmatch(rf"memory: \d\.\d GiB on the CPU \(sft: {parts}\)", line)


def test_a_finished_recipe_needs_nothing(tiny_model: Path) -> None:
    told = needs.told(parse_recipe(tiny_recipe(tiny_model)), [], None, {})
    assert (told["memory_gib"], told["disk_gib"]) == (0.0, 0.0)
    assert needs.memory_line(told) == "memory: no stage that is left holds a model"


def test_tokenised_examples_are_as_long_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(tiny_recipe(tiny_model))
    assert needs.longest(recipe, None) == Lengths(256, 257)
    columns = {
        "example_id": ["a", "b", "a", "b"],
        "format": ["sft", "sft", "grpo", "grpo"],
        "prompt_ids": [[1] * 9, [1] * 5, [1] * 12, [1] * 13],
        "answer_ids": [[2] * 3, [2] * 20, [], []],
    }
    write_table(tmp_path / "tokens.parquet", columns, TOKENS)
    assert needs.longest(recipe, tmp_path / "tokens.parquet") == Lengths(25, 13)


def test_a_prepared_recipe_is_planned_by_its_tokens(tiny_model: Path, tmp_path: Path) -> None:
    from flows.local import LocalRunner
    from flows.plan_runner import PlanRunner

    recipe, store = parse_recipe(tiny_recipe(tiny_model)), Store.open(tmp_path / "store")
    before = plan(recipe, store=store)["memory_gib"]
    planner = PlanRunner(store, downloads=True)
    pipeline(recipe, planner)
    prepare = next(action for action, _ in planner.actions if action.stage == "prepare")
    with LocalRunner(recipe, store=store, say=lambda _: None) as runner:
        runner.submit(prepare).result()
    assert plan(recipe, store=store)["memory_gib"] < before


def with_benchmark(
    model: Path, *, evaluation: dict[str, Any] | None = None, **benchmark: Any
) -> Recipe:
    put = {"benchmarks": [benchmark], "max_new_tokens": 8, "batch_tokens": 600}
    return parse_recipe({**tiny_recipe(model), "evaluation": {**put, **(evaluation or {})}})


def asked(recipe: Recipe, shown: Shown | None = None) -> Asked:
    (config,) = recipe.evaluation.benchmarks
    return needs.asked(recipe, config, shown)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"task": "gsm8k"}, Asked("generate", 256, 8)),
        ({"task": "gsm8k", "shots": 3, "max_new_tokens": 9}, Asked("generate", 4 * 256, 9)),
        ({"task": "mmlu", "shots": 5}, Asked("choice", 6 * 256)),
        ({"task": "humaneval"}, Asked("code", 256, 8)),
        ({"task": "humaneval", "samples": 2}, Asked("code", 256, 8, drawn=True)),
        ({"task": "svamp", "prompt": "as_sft"}, Asked("generate", 256 + 10, 8)),
    ],
    ids=str,
)
def test_a_benchmark_that_nobody_has_read_counts_as_sft_allows(
    tiny_model: Path, config: dict[str, Any], expected: Asked
) -> None:
    recipe = with_benchmark(tiny_model, **config)
    recipe = recipe.model_copy(
        update={"grpo": recipe.grpo.model_copy(update={"system_prompt": "x" * 30})}
    )
    assert asked(recipe) == expected


def test_a_benchmark_that_is_here_counts_its_longest_prompt(tiny_model: Path) -> None:
    """Of both groups, each behind its own worked examples: 6 + 600 bytes against 306 + 3."""
    problems = {
        "a": Problem("choice", "?", "x" * 600, group="first", choices=("1", "2")),
        "b": Problem("choice", "?", "x" * 3, group="second", choices=("1", "2")),
    }
    prefixes = {"first": "y" * 6, "second": "y" * 306}
    shown = Shown("mmlu", "choice", problems, {}, prefixes, [])
    assert asked(with_benchmark(tiny_model, task="mmlu"), shown) == Asked("choice", 202 + 32)
    shots = with_benchmark(tiny_model, task="mmlu", shots=2)
    assert asked(shots, shown) == Asked("choice", 202 + 3 * 32)


def test_a_plan_tells_of_the_largest_benchmark(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "How many? " * 900, "answer": "1"}]
    small = {"name": "small", "task": "svamp"}
    source = write_rows(tmp_path / "rows.jsonl", rows)
    large = {"name": "large", "task": "file", "source": str(source)}
    put = {"benchmarks": [small, large], "batch_tokens": 1 << 19}
    recipe = with_benchmark(tiny_model, evaluation=put)
    details = plan(recipe, store=Store.open(tmp_path / "store"))["memory"]
    assert re.fullmatch(r"evaluate\[(base|sft|grpo)/large\]", details["stage"])
    assert details["parts_gib"]["activations"] > details["parts_gib"]["libraries"]


def test_what_a_run_has_read_is_planned_by_its_problems(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.local import LocalRunner
    from flows.plan_runner import PlanRunner, benchmarks_of

    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "How many?", "answer": "1"}])
    recipe = with_benchmark(tiny_model, task="file", source=str(rows))
    store = Store.open(tmp_path / "store")

    def put() -> Asked:
        planner = PlanRunner(store)
        pipeline(recipe, planner)
        (shown,) = benchmarks_of(recipe, planner).values()
        return asked(recipe, shown)

    before = put()
    planner = PlanRunner(store)
    pipeline(recipe, planner)
    action = next(action for action, _ in planner.actions if action.stage == "benchmark")
    with LocalRunner(recipe, store=store, say=lambda _: None) as runner:
        runner.submit(action).result()
    monkeypatch.setattr("flows.plan_runner.gather", None)
    assert put() == before


def test_disk_counts_copies_of_the_base_and_all_of_the_adapter(
    tiny_model: Path, tmp_path: Path
) -> None:
    from flows.plan_runner import PlanRunner

    def written(**sections: object) -> int:
        recipe = parse_recipe({**tiny_recipe(tiny_model), **sections})
        runner = PlanRunner(Store.open(tmp_path / "store"))
        pipeline(recipe, runner)
        found = needs.disk(recipe, [action for action, _ in runner.actions])
        assert found is not None
        return found.written + found.kept

    plain = written()
    # Initial and two trained adapters, two moments of each system, two importances; masks; and
    # three checkpoints of weights and both moments.
    assert plain == TINY_ELEMENTS * (4 * (3 + 4 + 2) + 1 + 3 * 3 * 4)
    shape = read_shape(tiny_model)
    assert shape is not None
    residual = written(lora={"r": 2, "lora_alpha": 4, "init": "pissa"})
    assert residual - plain == 4 * shape.parameters
    gguf = write_tiny_gguf(tiny_model, tmp_path / "tiny.gguf")
    model = {"base": f"gguf:{gguf}", "dtype": "float32"}
    assert written(model=model) - plain == 4 * shape.parameters


@pytest.mark.parametrize(
    ("told", "driver", "visible", "expected"),
    [
        ("auto", False, None, "cpu"),
        ("auto", True, None, "gpu"),
        ("auto", True, "", "cpu"),
        ("cuda:1", False, None, "gpu"),
        ("cpu", True, None, "cpu"),
        ("mps", True, None, "cpu"),
    ],
)
def test_where_a_run_computes(
    told: str,
    driver: bool,
    visible: str | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_GPU_DRIVERS", (tmp_path,) if driver else ())
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert needs.device(RuntimeConfig(device=told)) == expected


def test_a_plan_loads_neither_torch_nor_prefect(tiny_model: Path, tmp_path: Path) -> None:
    file = write_tiny_recipe(tmp_path / "recipe.yaml", tiny_model)
    script = (
        "import sys; from flows.cli import main\n"
        f"main(['plan', {str(file)!r}, '--store', {str(tmp_path / 'store')!r}])\n"
        "print('loaded:', *{'torch', 'transformers', 'prefect'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert "memory: " in done.stdout
