"""Every cell of the paper's tables is a recipe that can be planned, and says what it is."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import NoReturn

import pytest

from artifacts import Store
from flows import cli, paper
from flows.paper import cells, groups, recipe_of
from flows.pipeline import stage_names
from flows.plan import plan
from flows.sweeps import SWEEPS, Point
from lorapar_core.errors import ConfigError
from lorapar_core.methods import expanded
from lorapar_core.paper_sweeps import paper_figures

CELLS = cells()


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, and a network that fails loudly."""
    from huggingface_hub import constants

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a plan went to the network")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_planned_and_its_figures_are_of_its_stages(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    planned = plan(recipe, store=Store.open(tmp_path / "store", create=False))
    stages = {stage["name"] for stage in planned["stages"]}
    group, cell = CELLS[name]
    assert {f"evaluate[{after}]" for after in cell.figures} <= stages
    if group.measured != "gsm8k":
        assert {f"evaluate[{after}/{group.measured}]" for after in cell.figures} <= stages
    last = [*stage_names(expanded(recipe).stages), *([] if recipe.stages else ["base"])][-1]
    assert last in cell.figures, "the figure after the last stage is what the cell is for"
    assert all(0 <= accuracy <= 100 for accuracy in cell.figures.values())
    assert list(tmp_path.iterdir()) == [], "a plan touches nothing"


def test_the_tables_are_whole() -> None:
    counts = {name: len(group.cells) for name, group in groups().items()}
    assert counts == {
        "table1": 6,
        "table2": 9,
        "table3": 1 + 3 * (10 + 3),
        **{f"table4/{data}": 11 for data in ("gsm8k", "dolly", "open-platypus", "codealpaca")},
        "table5": 10,
        "table6": 8,
        "table7": 2,
    }


def test_table_2_is_alpha_by_beta() -> None:
    found = {
        (recipe_of(name).partition.alpha, recipe_of(name).partition.beta)
        for name in CELLS
        if name.startswith("table2/")
    }
    assert found == {(a, b) for a in (0, 0.5, 1) for b in (0, 0.5, 1)}


def test_table_3_is_what_its_cells_are_called() -> None:
    for name in CELLS:
        if not name.startswith("table3/") or name == "table3/base":
            continue
        _, modules, theta, *random = name.split("/")
        recipe = recipe_of(name)
        assert (recipe.lora.modules, recipe.partition.theta) == (modules, float(theta))
        assert [(stage.kind, stage.system) for stage in recipe.stages] == [("sft", 1)]
        assert expanded(recipe).partition.choice == ("random" if random else "importance")
        assert (CELLS[name][1].active is None) == bool(random)


@pytest.mark.parametrize("name", [n for n in CELLS if n.startswith(("table4", "table5", "table6"))])
def test_a_method_is_what_its_cell_is_called(name: str) -> None:
    words = name.removeprefix(next(g for g in groups() if name.startswith(f"{g}/"))).split("/")[1:]
    recipe = recipe_of(name)
    if words[0] == "base":
        assert recipe.stages == []
        shots = [benchmark.shots for benchmark in recipe.evaluation.benchmarks]
        if words[1:]:
            assert shots == [int(words[1][0])]
        return
    if words[0] == "lora-par-pissa":
        assert (recipe.method, recipe.lora.init) == ("lora-par", "pissa")
        assert recipe.partition.theta == float(words[1])
        return
    assert recipe.method == words[0]
    if words[1:]:
        assert recipe.stages[0].epochs == int(words[1][0])


def test_cells_that_are_the_same_run_have_the_same_figures() -> None:
    """But for Table 4's, which has its own runs of what other tables have too."""
    by_recipe: dict[str, list[str]] = {}
    for name in CELLS:
        recipe = expanded(recipe_of(name)).model_dump_json(exclude={"name", "method"})
        by_recipe.setdefault(recipe, []).append(name)
    same = sorted(names for names in by_recipe.values() if len(names) > 1)
    assert same == [
        ["table1/five", "table3/QKVGUD/0.9"],
        ["table2/alpha-1/beta-1", "table4/gsm8k/lora-par"],
        ["table3/base", "table4/gsm8k/base"],
        ["table5/lora-par", "table7/sft-then-rl"],
    ]
    for names in same[2:]:
        assert len({str(CELLS[name][1].figures) for name in names}) == 1


def test_sections_of_group_cell_and_command_are_merged_field_by_field() -> None:
    recipe = recipe_of("table3/GUD/0.6", {"partition": {"alpha": 0.5}, "sft": {"seed": 4}})
    assert (recipe.partition.theta, recipe.partition.alpha) == (0.6, 0.5)
    assert (recipe.lora.modules, recipe.sft.seed) == ("GUD", 4)
    assert recipe.sft.activation_checkpointing, "the recipe's own field stays"
    assert recipe.name == "table3-GUD-0.6"


@pytest.mark.parametrize("name", ["table4/gsm8k/pisa+rl", "table9/x", "table1"])
def test_an_unknown_cell_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"in the paper's tables.*recipes --paper` lists them"):
        recipe_of(name)


def test_a_recipe_of_ones_own_may_be_called_table(tmp_path: Path) -> None:
    file = tmp_path / "table1.yaml"
    file.write_text("teachers: [{name: self, provider: local}]\n")
    assert recipe_of(file).name == "table1"
    assert paper.paper_line(file) == ""


def test_the_command_takes_a_cell_and_lists_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "store")]
    assert cli.main(["plan", "table4/gsm8k/pissa+rl", *store]) == 0
    assert "the paper, on GSM8K: after SFT 30.63 %, after GRPO 37.45 %" in capsys.readouterr().out
    assert cli.main(["plan", "table1/one", *store, "--set", "sft.seed=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["votes"] == 7473
    assert cli.main(["recipes", "--paper"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[2:]] == list(CELLS)
    assert cli.main(["plan", "table1/on", *store]) == 2
    assert "did you mean table1/one?" in capsys.readouterr().err


LABELS = {
    "one teacher, no role play": ["table1/one-without-role-play"],
    "one teacher": ["table1/one"],
    "another teacher": ["table1/another"],
    "3 teachers": ["table1/three"],
    "5 teachers": ["table1/five"],
    "random partition": ["table1/random"],
    "SFT then RL": ["table7/sft-then-rl"],
    "RL then SFT": ["table7/rl-then-sft"],
}


def cells_of(sweep: str, point: Point) -> list[str]:
    """The cells that a point of a sweep of the paper's recipe is; none where the paper has none."""
    values = point.values
    if sweep == "theta":
        name = f"table3/QKVGUD/{values['theta']:g}"
        named = [name + ("/random" if values["elements"] == "random" else "")]
    elif sweep == "modules":
        named = [f"table3/{point.label}/0.9"]
    elif sweep == "shared":
        named = [f"table2/alpha-{values['alpha']:g}/beta-{values['beta']:g}"]
    elif sweep == "baselines":
        tables = ("table4/gsm8k", "table6")
        ends = ("", "/1-epoch", "/2-epochs")
        named = [f"{table}/{point.label}{end}" for table in tables for end in ends]
    else:
        named = LABELS[point.label]
    return [name for name in named if name in CELLS]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_shows_the_figures_of_the_tables(sweep: str) -> None:
    points = SWEEPS[sweep].points(recipe_of("gsm8k-llama2-7b"))
    for point in points:
        expected = [v for c in cells_of(sweep, point) for v in CELLS[c][1].figures.values()]
        shown = paper_figures(sweep, point.label, point.values, theta=0.9, modules="QKVGUD")
        assert list(shown) == expected, point.label
    assert any(cells_of(sweep, point) for point in points)
