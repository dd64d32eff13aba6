"""Rewards that can't be used are refused before any work, in one line, and without torch here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tiny_recipe import tiny_recipe

from flows.pipeline import _located
from flows.requirements import check
from lorapar_core.config import Recipe
from lorapar_core.data.sources import Source
from lorapar_core.errors import ConfigError, DataError
from lorapar_core.recipe import parse_recipe
from lorapar_core.rewards.check import require_rewardable

ROOT = Path(__file__).parents[3]
MODULE = """
import sys
print("loud", "as", "modules", "are")
five = 5
def good(completion, reference, form): return 1.0
def extra(completion, reference, form, weight=2): return 1.0
def short(completion, reference): return 1.0
def wanting(completion, reference, form, *, more): return 1.0
class Callable:
    def __call__(self, completion, reference, form): return 1.0
called = Callable()
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in PYTHONPATH with some modules."""
    (tmp_path / "my_rewards.py").write_text(MODULE)
    (tmp_path / "broken_rewards.py").write_text("raise RuntimeError('two\\nlines')")
    (tmp_path / "dying_rewards.py").write_text("import os; os._exit(7)")
    (tmp_path / "leaving_rewards.py").write_text("raise SystemExit('bye')")
    (tmp_path / "quiet_rewards.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "gone_rewards.py").write_text("import os; os._exit(0)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def recipe(model: Path, rewards: dict[str, float], **sections: Any) -> Recipe:
    fields = tiny_recipe(model)
    fields["grpo"]["rewards"] = rewards
    return parse_recipe({**fields, **sections})


def data_with_tests(folder: Path, **more: Any) -> dict[str, Any]:
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "p", "answer": "a", "checks": "assert True"}\n')
    columns = {"tests": "checks"}
    return {"source": str(rows), "test_examples": 1, "columns": columns, **more}


@pytest.mark.parametrize("name", ["good", "extra", "called"])
def test_a_function_of_ones_own_is_taken(tiny_model: Path, modules: Path, name: str) -> None:
    check(recipe(tiny_model, {f"my_rewards:{name}": 1.0, "integer": 1.0}))
    assert "my_rewards" not in sys.modules


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_rewards:absent", "can't be imported (AttributeError: "),
        ("no_such_package.rewards:f", "can't be imported (ModuleNotFoundError: No module named"),
        ("broken_rewards:f", "can't be imported (RuntimeError: two lines); install its module"),
        ("dying_rewards:f", "importing dying_rewards:f ended the process with 7"),
        ("leaving_rewards:f", "leaving_rewards:f can't be imported (SystemExit: bye)"),
        ("quiet_rewards:f", "quiet_rewards:f can't be imported (SystemExit: 0)"),
        ("gone_rewards:f", "importing gone_rewards:f ended the process with 0"),
        ("my_rewards:five", "reward my_rewards:five is int, expected a function"),
        ("my_rewards:short", "can't be called with (completion, reference, format): too many"),
        ("my_rewards:wanting", "can't be called with (completion, reference, format): missing"),
    ],
)
def test_what_is_no_reward_gets_one_line(
    tiny_model: Path, modules: Path, path: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check(recipe(tiny_model, {path: 1.0, "integer": 1.0}))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_reward_that_is_not_used_is_not_looked_for(tiny_model: Path) -> None:
    absent = {"no_such_package:f": 0.0, "integer": 1.0}
    check(recipe(tiny_model, absent))
    used = {"no_such_package:f": 1.0}
    check(recipe(tiny_model, used), runs=False)
    check(recipe(tiny_model, used, stages=[{"kind": "sft", "system": 1}]))
    with pytest.raises(ConfigError, match="no_such_package"):
        check(recipe(tiny_model, used))


@pytest.mark.parametrize("name", ["a.b", "a:b.c", ":f", "a:", "a b:f", "1a:f", "a:b:c", "../a:f"])
def test_what_is_no_import_path(tiny_model: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"can't be used; .* or a package\.module:function"):
        recipe(tiny_model, {name: 1.0})


def test_execution_needs_data_of_ones_own_with_tests(tiny_model: Path, tmp_path: Path) -> None:
    limits = {"runtime": {"device": "cpu", "sandbox": "limits"}}
    rewards = {"execution": 1.0}
    check(recipe(tiny_model, rewards, data=data_with_tests(tmp_path), **limits))
    for data in (
        data_with_tests(tmp_path, columns={}),
        {"source": "codealpaca", "test_examples": 1, "columns": {"tests": "checks"}},
    ):
        for runs in (True, False):
            with pytest.raises(ConfigError, match=r"the reward execution .* data\.columns\.tests"):
                check(recipe(tiny_model, rewards, data=data, **limits), runs=runs)


@pytest.mark.parametrize("name", ["correctness", "free_form"])
def test_an_answer_is_no_text_of_tests(tiny_model: Path, tmp_path: Path, name: str) -> None:
    data, rewards = data_with_tests(tmp_path), {name: 1.0}
    for runs in (True, False):
        with pytest.raises(ConfigError, match=rf"{name} .* use code or execution"):
            check(recipe(tiny_model, rewards, data=data), runs=runs)
    check(recipe(tiny_model, rewards, data={**data, "columns": {}}))


def test_execution_refuses_a_row_without_tests_by_its_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = data_with_tests(tmp_path)
    path = Path(data["source"])
    source = Source("file", ".jsonl", columns={"tests": "checks"})
    needing = recipe(tiny_model, {"execution": 1.0}, data=data)
    require_rewardable(needing, source, path)
    with path.open("a") as file:
        file.write('{"prompt": "q", "answer": "a", "checks": ""}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl line 2: the row carries no tests"):
        require_rewardable(needing, source, path)
    runner: Any = SimpleNamespace(store=SimpleNamespace(root=tmp_path), downloads=False)
    with pytest.raises(DataError, match=r"line 2: the row carries no tests"):
        _located(needing, runner)
    for harmless in (
        recipe(tiny_model, {"code": 1.0, "execution": 0.0}, data=data),
        recipe(tiny_model, {"execution": 1.0}, data=data, stages=[{"kind": "sft", "system": 1}]),
    ):
        require_rewardable(harmless, source, path)


def test_a_run_needs_a_sandbox_where_code_is_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorapar_core.sandbox.tools", tuple)
    needing = recipe(tiny_model, {"code": 1.0}, data=data_with_tests(tmp_path))
    with pytest.raises(ConfigError, match=r"need a sandbox.*set runtime\.sandbox: limits"):
        check(needing)
    check(needing, runs=False)
    check(recipe(tiny_model, {"code": 1.0}, data=data_with_tests(tmp_path, columns={})))


def test_the_readme_tells_the_truth(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module and its recipe, as they are printed there, can be used together."""
    section = (ROOT / "README.md").read_text().partition("## Your own reward")[2]
    section = section.partition("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (fields,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "brevity.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rewards = yaml.safe_load(fields)["grpo"]["rewards"]
    check(recipe(tiny_model, rewards))
    call = "from brevity import brief as f; print(f('a' * 20, '', None), f('a' * 900, '', None))"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0.9", "0.0"]
