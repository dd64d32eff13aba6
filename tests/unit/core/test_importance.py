"""The importance formula, and the moments it is made of, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tiny_inputs import MODEL, RUNTIME, files, run_stage, spec, tiny_inputs

from lorapar_core.config import RuntimeConfig
from lorapar_core.errors import ModelError, TooFewExamples
from lorapar_core.examples import seeded_order, system_ids
from lorapar_core.importance import importance, refuse_zero
from tasks.children import Children

Tensors = dict[str, NDArray[np.float32]]
SHAPES = {"b.lora_A.weight": (2, 3), "a.lora_B.weight": (4,)}


def tensors(seed: int) -> Tensors:
    generator = np.random.default_rng(seed)
    return {key: generator.normal(size=s).astype(np.float32) for key, s in SHAPES.items()}


def shard(gradients: Sequence[Tensors]) -> Tensors:
    """Moment sums of per-example gradients, as stage `moments` writes them."""
    found: dict[str, Any] = {"count": np.array(len(gradients))}
    for key in SHAPES:
        each = np.stack([g[key] for g in gradients])
        found[f"first/{key}"] = each.sum(0)
        found[f"second/{key}"] = (each**2).sum(0)
    return found


def test_the_formula() -> None:
    gradients = [tensors(seed) for seed in range(1, 8)]
    phi = tensors(0)
    scores = importance(phi, [shard(gradients)])
    assert list(scores) == sorted(SHAPES)
    for key in SHAPES:
        p = phi[key].astype(np.float64)
        g = np.mean([one[key] for one in gradients], axis=0, dtype=np.float64)
        fisher = np.mean([one[key].astype(np.float64) ** 2 for one in gradients], axis=0)
        expected = np.abs(g * p - 0.5 * fisher * p**2)
        assert scores[key].dtype == np.float32
        assert scores[key].shape == SHAPES[key]
        np.testing.assert_allclose(scores[key], expected, rtol=1e-5, atol=1e-7)


def test_by_hand() -> None:
    phi = {"w": np.array([2.0, -1.0, 0.0], np.float32)}
    sums = {
        "first/w": np.array([4.0, 2.0, 9.0], np.float32),
        "second/w": np.array([16.0, 2.0, 9.0], np.float32),
        "count": np.array(2),
    }
    # |2·2 - ½·8·4|, |1·-1 - ½·1·1|, 0
    assert importance(phi, [sums])["w"].tolist() == [12.0, 1.5, 0.0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=9), st.data())
def test_shards_merged_are_one_shard(seeds: list[int], data: st.DataObject) -> None:
    gradients = [tensors(seed) for seed in seeds]
    cut = data.draw(st.integers(1, len(seeds) - 1))
    whole = importance(tensors(0), [shard(gradients)])
    parts = importance(tensors(0), [shard(gradients[:cut]), shard(gradients[cut:])])
    for key in SHAPES:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-4, atol=1e-6)


def test_zero_importance_is_refused_with_its_cause() -> None:
    zero = {key: np.zeros(shape, np.float32) for key, shape in SHAPES.items()}
    with pytest.raises(ModelError, match=r"System 2 is 0: with B = 0 .* gaussian, pissa or olora"):
        refuse_zero(importance(zero, [shard([tensors(1)])]), system=2)
    broken = {**tensors(0), "a.lora_B.weight": np.full(4, np.nan, np.float32)}
    with pytest.raises(ModelError, match="System 1 is not finite"):
        refuse_zero(importance(broken, [shard([tensors(1)])]), system=1)
    refuse_zero(tensors(0), system=1)


def test_the_seeded_order_depends_on_seed_and_id_alone() -> None:
    ids = [f"{k:032x}" for k in range(50)]
    order = seeded_order(ids, seed=3)
    assert sorted(order) == ids
    assert order not in (ids, seeded_order(ids, seed=4))
    assert seeded_order(reversed(ids), seed=3) == order
    fewer = [i for i in ids if i != order[7]]
    assert seeded_order(fewer, seed=3) == order[:7] + order[8:]


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("importance"), tiny_model)


def moments_of(
    inputs: dict[str, Path], start: int, stop: int, **changed: Any
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Configuration and inputs of a shard."""
    config = {
        "system": 1,
        "start": start,
        "stop": stop,
        "order_seed": 0,
        "batch_tokens": 300,
        "model": MODEL,
        **changed,
    }
    return config, {role: inputs[role] for role in ("base", "adapter", "tokens", "labels")}


def moments(out: Path, inputs: dict[str, Path], start: int, stop: int, **changed: Any) -> Path:
    return run_stage("moments", *moments_of(inputs, start, stop, **changed), out)


def score(out: Path, inputs: dict[str, Path], shards: Sequence[Path]) -> Path:
    given_ = {"adapter": inputs["adapter"]}
    for k, directory in enumerate(shards):
        given_[f"moments/{k}"] = directory / "moments.safetensors"
        given_[f"scored/{k}"] = directory / "scored.json"
    return run_stage("score", {"system": 1}, given_, out)


def test_four_examples_begin_with_the_shards_of_two(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    one = moments(tmp_path / "one", inputs, 0, 2)
    two = moments(tmp_path / "two", inputs, 2, 4)
    whole = moments(tmp_path / "whole", inputs, 0, 4)
    ids = [json.loads((d / "scored.json").read_text()) for d in (one, two, whole)]
    assert ids[0] + ids[1] == ids[2]
    assert len(set(ids[2])) == 4
    assert ids[2] == seeded_order(system_ids(inputs["labels"], 1), seed=0)[:4]
    sums = [load_file(directory / "moments.safetensors") for directory in (one, two, whole)]
    assert [int(s["count"]) for s in sums] == [2, 2, 4]
    for key in load_file(inputs["adapter"] / "adapter_model.safetensors"):
        for kind in ("first", "second"):
            a, b, both = (s[f"{kind}/{key}"] for s in sums)
            assert both.any()
            np.testing.assert_allclose(a + b, both, rtol=1e-3, atol=1e-6 * np.abs(both).max())
    scored = score(tmp_path / "score", inputs, [one, two])
    assert json.loads((scored / "scored.json").read_text()) == ids[2]
    parts = load_file(scored / "importance.safetensors")
    at_once = load_file(score(tmp_path / "at_once", inputs, [whole]) / "importance.safetensors")
    for key, values in parts.items():
        np.testing.assert_allclose(values, at_once[key], rtol=1e-3, atol=1e-6 * values.max())


def test_shards_of_two_processes_at_once_are_the_bytes_of_one(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """And are merged in the order of their numbers, whichever ended first."""
    here = [moments(tmp_path / f"here{k}", inputs, k, k + 2) for k in (0, 2)]
    there = [tmp_path / f"there{k}" for k in (0, 2)]
    runtime = RuntimeConfig.model_validate({**RUNTIME, "children": 2})
    with Children(runtime) as children, ThreadPoolExecutor(2) as pool:
        running = []
        for start, out in zip((0, 2), there, strict=True):
            out.mkdir()
            scratch = tmp_path / f"scratch{start}"
            scratch.mkdir()
            config, needed = moments_of(inputs, start, start + 2)
            shard_spec = spec("moments", config, needed, scratch)
            run = partial(children.run, shard_spec, out, place="device", listen=lambda _: None)
            running.append(pool.submit(run))
        for ended in running:
            ended.result()
    assert [files(directory) for directory in there] == [files(directory) for directory in here]


def test_the_same_bytes_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    once, again = (moments(tmp_path / name, inputs, 0, 4) for name in ("one", "two"))
    assert files(once) == files(again)
    assert set(files(once)) == {"moments.safetensors", "scored.json"}
    scores = [score(tmp_path / f"{d.name}.score", inputs, [d]) for d in (once, again)]
    assert files(scores[0]) == files(scores[1])
    other = moments(tmp_path / "other", inputs, 0, 4, system=2)
    assert not set(json.loads((other / "scored.json").read_text())) & set(
        json.loads((once / "scored.json").read_text())
    )


def test_too_few_examples(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TooFewExamples, match=r"System 1 has 8 examples .* asks for 9"):
        moments(tmp_path / "out", inputs, 0, 9)


def test_an_adapter_with_b_zero_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    """What PEFT's usual initialization would give: A drawn, B = 0, and so no gradient for A."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    weights = load_file(inputs["adapter"] / "adapter_model.safetensors")
    zeroed = {k: np.zeros_like(w) if ".lora_B." in k else w for k, w in weights.items()}
    save_file(zeroed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = (inputs["adapter"] / "adapter_config.json").read_bytes()
    (adapter / "adapter_config.json").write_bytes(config)
    changed = {**inputs, "adapter": adapter}
    shards = [moments(tmp_path / "moments", changed, 0, 2)]
    with pytest.raises(ModelError, match="total importance for System 1 is 0"):
        score(tmp_path / "score", changed, shards)
