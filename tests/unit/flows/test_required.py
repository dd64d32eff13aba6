"""What a recipe needs and this machine lacks is refused before any work, and a plan names it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from artifacts import Store
from flows.plan import plan
from flows.requirements import check, missing_packages
from lorapar_core import process
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError, TooFewExamples
from lorapar_core.recipe import parse_recipe


def recipe(model: Path, /, **changes: Any) -> Recipe:
    fields: dict[str, Any] = tiny_recipe(model)
    for section, values in changes.items():
        fields[section] = values if isinstance(values, list) else fields[section] | values
    return parse_recipe(fields)


def test_a_run_needs_the_package_and_a_plan_does_not(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check(recipe(tiny_model))
    eight = recipe(tiny_model, grpo={"optimizer": "adamw_8bit"})
    with pytest.raises(ConfigError, match="needs bitsandbytes, which isn't installed"):
        check(eight)
    check(eight, runs=False)
    assert missing_packages(recipe(tiny_model)) == []
    (said,) = missing_packages(eight)  # and the plan says so
    assert said.startswith("optimizer adamw_8bit needs bitsandbytes")


def test_4_bits_need_the_package(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    fields: dict[str, Any] = tiny_recipe(tiny_model)
    fields["model"] |= {"quantization": "nf4"}
    four = parse_recipe(fields)
    with pytest.raises(ConfigError, match="nf4 needs bitsandbytes, which isn't installed"):
        check(four)
    check(four, runs=False)
    (said,) = missing_packages(four)
    assert said.startswith("model.quantization nf4 needs bitsandbytes")


def test_vllm_needs_the_package_where_grpo_is_a_stage(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    asked = {"grpo": {"engine": "vllm"}, "runtime": {"device": "auto", "child": "once"}}
    drawn = recipe(tiny_model, **asked)
    with pytest.raises(ConfigError, match="engine vllm needs vllm, which isn't installed"):
        check(drawn)
    check(drawn, runs=False)
    (said,) = missing_packages(drawn)
    assert said.startswith("grpo.engine vllm needs vllm")
    check(recipe(tiny_model, **asked, stages=[{"kind": "sft", "system": 1}]))


def test_a_plan_too_refuses_a_vllm_that_can_not_run(tiny_model: Path) -> None:
    drawn = recipe(tiny_model, grpo={"engine": "vllm"}, runtime={"device": "cpu"})
    with pytest.raises(ConfigError, match=r"needs a CUDA GPU, and runtime\.device is cpu"):
        check(drawn, runs=False)


def test_a_stage_left_out_needs_no_package(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check(
        recipe(
            tiny_model,
            grpo={"optimizer": "adamw_8bit"},
            stages=[{"kind": "sft", "system": 1}],
        )
    )


@pytest.mark.parametrize(
    ("section", "fields", "package", "message"),
    [
        ("runtime", {"trackers": ["wandb"]}, "wandb", "runtime.trackers names wandb, which isn't"),
        (
            "model",
            {"attention": "flash_attention_2"},
            "flash_attn",
            "flash_attention_2 needs flash-attn or kernels, and neither is installed",
        ),
    ],
)
def test_trackers_and_attention_need_their_packages(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: str,
    fields: dict[str, Any],
    package: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "kernels", None)
    asked = recipe(tiny_model, **{section: fields})
    with pytest.raises(ConfigError) as refused:
        check(asked)
    assert message in str(refused.value)
    check(asked, runs=False)
    assert missing_packages(asked) == [str(refused.value)]


def test_a_gpu_that_is_not_there_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(process, "_GPU_DRIVERS", ())
    for name in ("cuda", "cuda:1"):
        asked = recipe(tiny_model, runtime={"device": name})
        with pytest.raises(ConfigError, match=f"runtime.device is {name}, and this machine has no"):
            check(asked)
        check(asked, runs=False)  # a plan may be for another machine
    monkeypatch.setattr(process, "_GPU_DRIVERS", (tmp_path,))
    check(recipe(tiny_model, runtime={"device": "cuda:1"}))
    several = {"device": "cuda:1", "processes": 2}
    shared = {"accumulation": 2}
    asked = recipe(tiny_model, runtime=several, sft=shared, grpo=shared)
    with pytest.raises(ConfigError, match="cuda:1, and 2 processes take a GPU each"):
        check(asked)
    nodes = {"device": "cuda:1", "nodes": 2, "node_command": [sys.executable]}
    asked = recipe(tiny_model, runtime=nodes, sft=shared, grpo=shared)
    with pytest.raises(ConfigError, match="cuda:1, and 2 processes take a GPU each"):
        check(asked)


def test_nodes_whose_command_is_not_there_are_refused(tiny_model: Path) -> None:
    nodes = {"nodes": 2, "node_command": ["no-such-program"]}
    shared = {"accumulation": 2}
    asked = recipe(tiny_model, runtime=nodes, sft=shared, grpo=shared)
    with pytest.raises(ConfigError, match="begins with 'no-such-program'") as refused:
        check(asked)
    check(asked, runs=False)
    assert missing_packages(asked) == [str(refused.value)]


def test_data_that_can_not_be_enough_is_refused_before_a_vote(
    tiny_model: Path, tmp_path: Path
) -> None:
    """With a plan already: 24 examples can't give 13 of each system."""
    store = Store.open(tmp_path / "store", create=False)
    plan(recipe(tiny_model, importance={"examples": 12}), store=store)
    with pytest.raises(TooFewExamples, match=r"24 training examples, and .* asks for 13 of each"):
        plan(recipe(tiny_model, importance={"examples": 13}), store=store)


def test_a_plan_names_a_teacher_s_model_that_is_not_here(tiny_model: Path, tmp_path: Path) -> None:
    teachers = [
        {"name": "itself", "provider": "local"},
        {"name": "other", "provider": "local", "model": "gguf:no-such-package-of-ours"},
    ]
    planned = plan(
        recipe(tiny_model, teachers=teachers), store=Store.open(tmp_path / "store", create=False)
    )
    assert planned["absent"] == ["gguf:no-such-package-of-ours"]
