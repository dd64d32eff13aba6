"""What draws completions: when vLLM is refused, and what trl is told of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import tiny_recipe

from lorapar_core.config import GrpoConfig, Recipe, RuntimeConfig
from lorapar_core.engines import engine_arguments, require_engine, require_room
from lorapar_core.errors import ConfigError
from lorapar_core.recipe import parse_recipe

VLLM = GrpoConfig(engine="vllm", max_completion_length=9)


def recipe(*, model: dict[str, Any] | None = None, **runtime: Any) -> Recipe:
    fields: dict[str, Any] = tiny_recipe(Path("/nowhere"))
    fields["grpo"] |= {"engine": "vllm"}
    fields["model"] |= model or {}
    fields["runtime"] = {"device": "cuda", **runtime}
    return parse_recipe(fields)


def test_without_vllm_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    require_engine("transformers")
    with pytest.raises(ConfigError, match=r"engine vllm needs vllm.* pip install 'vllm"):
        require_engine("vllm")
    with pytest.raises(ConfigError, match="engine vllm needs vllm"):
        engine_arguments(VLLM, RuntimeConfig(), longest_prompt=1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": "cpu"}, "needs a CUDA GPU, and runtime.device is cpu"),
        ({"child": "resident"}, "use child: once"),
        ({"model": {"quantization": "nf4"}}, "use runtime.vllm_mode: server"),
        ({"processes": 2, "vllm_tensor_parallel": 4}, "2 processes can't be grouped"),
        ({"nodes": 2, "vllm_tensor_parallel": 2}, "a machine's 1 processes can't be grouped"),
    ],
)
def test_a_colocated_vllm_that_can_not_run_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        require_room(recipe(**changed))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"processes": 4, "vllm_tensor_parallel": 2},
        {"vllm_mode": "server", "child": "resident", "model": {"quantization": "nf4"}},
    ],
)
def test_what_can_run_is_let_through(changed: dict[str, Any]) -> None:
    require_room(recipe(**changed))


def told(**runtime: Any) -> Any:
    """trl's arguments, as trl makes them."""
    from trl import GRPOConfig as TrlGrpoConfig

    section = RuntimeConfig.model_validate(runtime)
    arguments = engine_arguments(VLLM, section, longest_prompt=5)
    return TrlGrpoConfig(output_dir="unused", use_cpu=True, bf16=False, **arguments)


def test_trl_is_told_where_vllm_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorapar_core.engines.require_engine", lambda name: None)
    here = told(vllm_memory_share=0.4, vllm_tensor_parallel=2)
    assert (here.use_vllm, here.vllm_mode) == (True, "colocate")
    assert (here.vllm_gpu_memory_utilization, here.vllm_tensor_parallel_size) == (0.4, 2)
    assert here.vllm_max_model_length == 14
    there = told(vllm_mode="server", vllm_server="there:8001")
    assert (there.use_vllm, there.vllm_mode) == (True, "server")
    assert (there.vllm_server_host, there.vllm_server_port) == ("there", 8001)
    for arguments in (here, there):
        assert arguments.vllm_importance_sampling_correction is True
        assert arguments.vllm_importance_sampling_mode == "sequence_mask"
        assert arguments.vllm_importance_sampling_clip_max == 3.0


def test_transformers_needs_nothing_of_it() -> None:
    arguments = engine_arguments(GrpoConfig(), RuntimeConfig(), longest_prompt=5)
    assert arguments["use_vllm"] is False
    assert arguments["vllm_importance_sampling_correction"] is False
