"""The initial adapter: what is drawn, what PiSSA and OLoRA leave, and what is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_inputs import MODEL, files, run_stage

from lorapar_core.base import TOKENIZER, WEIGHTS, tree_digest
from lorapar_core.config import MODULE_LETTERS, LoraConfig
from lorapar_core.errors import ModelError
from lorapar_core.initialize import gaussian, target_modules
from lorapar_core.loading import (
    adapter_parameters,
    attach_adapter,
    load_base,
    load_tensors,
    load_tokenizer,
)

WEIGHTS_FILE = "adapter_model.safetensors"


def initialize(out: Path, model: Path, **lora: Any) -> Path:
    section = LoraConfig.model_validate({"r": 4, "lora_alpha": 8, **lora})
    fields = section.model_dump(mode="json", exclude={"dropout"})
    config = {"lora": fields, "model": MODEL, "base_name": "owner/tiny@0123"}
    return run_stage("initialize", config, {"base": model}, out)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(6, 60).reshape(2, 27)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def test_gaussian_is_as_wide_as_it_says() -> None:
    drawn = gaussian("a.lora_B.weight", torch.Size([300, 400]), std=0.01, seed=0)
    assert drawn.dtype == torch.float32
    sorted_ = drawn.flatten().double().sort().values / 0.01
    assert abs(float(sorted_.mean())) < 4 / math.sqrt(120_000)
    assert abs(float(sorted_.std()) - 1) < 0.01
    # Kolmogorov-Smirnov distance from the normal distribution, at 0.1 %.
    normal = torch.special.ndtr(sorted_)
    steps = torch.arange(1, 120_001, dtype=torch.float64) / 120_000
    assert float((normal - steps).abs().max()) < 1.95 / math.sqrt(120_000)


def test_gaussian_depends_on_seed_and_key_alone() -> None:
    def draw(key: str, seed: int) -> torch.Tensor:
        torch.rand(3)  # whatever else was drawn
        return gaussian(key, torch.Size([4, 5]), std=0.01, seed=seed)

    assert torch.equal(draw("a", 0), draw("a", 0))
    assert not torch.equal(draw("a", 0), draw("b", 0))
    assert not torch.equal(draw("a", 0), draw("a", 1))


def test_default_is_pefts_usual_init(tiny_model: Path, tmp_path: Path) -> None:
    """B = 0, and A as wide as PEFT's: with the adapter the model is the base."""
    from peft import LoraConfig, get_peft_model

    adapter = (
        initialize(tmp_path / "a", tiny_model, init="default", r=64, modules="QKVOGUD") / "adapter"
    )
    base = load_base(tiny_model, dtype="float32")
    plain = logits(base)
    assert torch.equal(logits(attach_adapter(base, adapter)), plain)
    made = load_tensors(adapter / WEIGHTS_FILE)
    config = LoraConfig(r=64, target_modules=list(MODULE_LETTERS.values()), task_type="CAUSAL_LM")
    peft_model = get_peft_model(load_base(tiny_model, dtype="float32"), config)
    theirs = adapter_parameters(peft_model)
    assert made.keys() == theirs.keys()
    for key, tensor in made.items():
        expected = theirs[key].detach()
        if ".lora_B." in key:
            assert not tensor.any()
            assert not expected.any()
            continue
        bound = tensor.shape[1] ** -0.5
        assert 0.99 * bound < float(tensor.abs().max()) <= bound
        assert float(expected.abs().max()) <= bound * 1.0001
        assert float(tensor.std()) == pytest.approx(float(expected.std()), rel=0.05)
        assert abs(float(tensor.mean())) < 4 * bound / math.sqrt(3 * tensor.numel())
    keys = [key for key in made if ".lora_A." in key]
    assert not torch.equal(made[keys[0]][:, :8], made[keys[1]][:, :8])


def test_another_module_pattern_leaves_common_tensors_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    few = load_tensors(
        initialize(tmp_path / "few", tiny_model, modules="QD") / "adapter" / WEIGHTS_FILE
    )
    out = initialize(tmp_path / "many", tiny_model, modules="QKVOGUD")
    many = load_tensors(out / "adapter" / WEIGHTS_FILE)
    assert few.keys() < many.keys()
    assert (len(few), len(many)) == (2 * 2 * 2, 2 * 7 * 2)
    assert all(torch.equal(few[key], many[key]) for key in few)
    every = torch.cat([tensor.flatten() for tensor in many.values()])
    assert abs(float(every.std()) - 0.01) < 0.0003
    assert all(tensor.any() for tensor in many.values())  # B too, or no element has importance


def test_the_adapter_is_canonical(tiny_model: Path, tmp_path: Path) -> None:
    one = initialize(tmp_path / "one", tiny_model, modules="QKVGUD")
    two = initialize(tmp_path / "two", tiny_model, modules="DUGVKQ")
    assert files(one) == files(two)
    assert set(files(one)) == {"adapter/adapter_config.json", f"adapter/{WEIGHTS_FILE}"}
    written = (one / "adapter" / "adapter_config.json").read_text()
    fields = json.loads(written)
    assert written == json.dumps(fields, indent=2, sort_keys=True) + "\n"
    assert fields["base_model_name_or_path"] == "owner/tiny@0123"
    assert fields["target_modules"] == sorted(MODULE_LETTERS[m] for m in "QKVGUD")
    assert (fields["r"], fields["lora_alpha"], fields["init_lora_weights"]) == (4, 8, True)
    assert str(tmp_path) not in written


def test_peft_reads_the_adapter_as_we_do(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = initialize(tmp_path / "out", tiny_model, init_std=0.1) / "adapter"
    ours = logits(attach_adapter(load_base(tiny_model, dtype="float32"), adapter))
    theirs = logits(PeftModel.from_pretrained(load_base(tiny_model, dtype="float32"), adapter))
    assert torch.equal(ours, theirs)
    assert float((ours - logits(load_base(tiny_model, dtype="float32"))).abs().max()) > 1e-4


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_residual_base_and_adapter_are_the_model(
    tiny_model: Path, tmp_path: Path, init: str
) -> None:
    out = initialize(tmp_path / "out", tiny_model, init=init)
    base = load_base(out / "base", dtype="float32")
    original = logits(load_base(tiny_model, dtype="float32"))
    without = float((logits(base) - original).abs().max())
    adapted = attach_adapter(base, out / "adapter")
    torch.testing.assert_close(logits(adapted), original, atol=2e-6, rtol=1e-5)
    assert without > 1e-2
    fields = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert fields["init_lora_weights"] is True  # a plain adapter: nothing is derived at loading
    digest = tree_digest(out / "base", (*WEIGHTS, *TOKENIZER))
    assert fields["base_model_name_or_path"] == f"sha256:{digest}"
    assert load_tokenizer(out / "base")("Maya has 5 apples.") == load_tokenizer(tiny_model)(
        "Maya has 5 apples."
    )
    again = initialize(tmp_path / "again", tiny_model, init=init)
    assert files(out) == files(again)
    for name, content in files(out).items():
        assert str(tmp_path).encode() not in content, name
        assert str(tiny_model).encode() not in content, name


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ("QKV", ["k_proj", "q_proj", "v_proj"]),
        ("all-linear", sorted(MODULE_LETTERS.values())),
        (["o_proj", "q_proj", "q_proj"], ["o_proj", "q_proj"]),
    ],
)
def test_module_patterns(tiny_model: Path, modules: str | list[str], expected: list[str]) -> None:
    assert target_modules(load_base(tiny_model, dtype="float32"), modules) == expected


@pytest.mark.parametrize("name", ["c_attn", "lm_head", "norm", "layers"])
def test_a_missing_module_is_named(tiny_model: Path, name: str) -> None:
    base = load_base(tiny_model, dtype="float32")
    with pytest.raises(ModelError, match=f"no linear modules {name}; it has down_proj, gate_proj"):
        target_modules(base, ["q_proj", name])


def test_a_module_of_one_layer(tiny_model: Path, tmp_path: Path) -> None:
    only = "model.layers.1.self_attn.q_proj"
    out = initialize(tmp_path / "out", tiny_model, modules=[only])
    keys = load_tensors(out / "adapter" / WEIGHTS_FILE)
    assert list(keys) == [f"base_model.model.{only}.lora_{x}.weight" for x in "AB"]
    attach_adapter(load_base(tiny_model, dtype="float32"), out / "adapter")


def test_a_module_path_that_the_model_has_not_is_named(tiny_model: Path) -> None:
    base = load_base(tiny_model, dtype="float32")
    with pytest.raises(ModelError, match=r"no linear modules model\.layers\.9\.self_attn\.q_proj"):
        target_modules(base, ["model.layers.9.self_attn.q_proj"])


def test_an_adapter_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from tiny import tiny_model_dir

    adapter = initialize(tmp_path / "out", tiny_model) / "adapter"
    deeper = load_base(tiny_model_dir(tmp_path / "deeper", layers=3), dtype="float32")
    with pytest.raises(ModelError, match="doesn't fit this model"):
        attach_adapter(deeper, adapter)
