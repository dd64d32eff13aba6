"""What takes a package that isn't installed is refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from flows.pipeline import check, missing_packages
from lorapar_core.config import Recipe
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import parse_recipe


def recipe(model: Path, **changes: Any) -> Recipe:
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
