"""Adapters that are not LoRA: kept in PEFT's format, always the same, and trained as LoRA is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_configs import GPT2
from tiny_inputs import MODEL, files, run_stage, spec, steady_files, tiny_inputs
from transformers import AutoModelForCausalLM

from lorapar_core import resume
from lorapar_core.config import PeftConfig, SftConfig
from lorapar_core.errors import ModelError, Stopped
from lorapar_core.examples import token_rows
from lorapar_core.loading import adapter_parameters, attach_adapter, load_base
from lorapar_core.memory import other_elements
from lorapar_core.model_shape import read_shape
from lorapar_core.other_adapters import ENCODER, new
from lorapar_core.stages import STAGES
from lorapar_core.stopping import StopRequest, stop_request

KINDS = ("prompt-tuning", "p-tuning", "prefix-tuning", "ia3")
SFT = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "batch_size": 2,
    "accumulation": 2,
    "max_steps": 3,
    "max_length": 256,
}
IDS = torch.tensor([[7, 8, 9, 10, 33, 40]])


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_inputs(tmp_path_factory.mktemp("other-adapters"), tiny_model)


def initialize(out: Path, model: Path, kind: str, *, seed: int = 0, **section: Any) -> Path:
    fields = {"kind": kind, "virtual_tokens": 4, "encoder_hidden_size": 8, **section}
    config = {"peft": fields, "seed": seed, "model": MODEL, "base_name": "owner/tiny@0123"}
    return run_stage("initialize", config, {"base": model}, out) / "adapter"


def sft_parts(inputs: Mapping[str, Path], adapter: Path, **section: Any) -> Any:
    """Config and inputs of a stage that trains every element on every example."""
    made = SftConfig.model_validate({**SFT, **section}).model_dump(exclude={"prompt"})
    config = {
        "system": "full",
        "data": "all",
        "epochs": 1.0,
        "model": MODEL,
        "sft": made,
        "dropout": 0.0,
    }
    return config, {"base": inputs["base"], "adapter": adapter, "tokens": inputs["tokens"]}


def sft(out: Path, inputs: Mapping[str, Path], adapter: Path, **section: Any) -> Path:
    config, needed = sft_parts(inputs, adapter, **section)
    return run_stage("sft", config, needed, out)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


def weights(adapter: Path) -> dict[str, Any]:
    return load_file(adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_one_is_made_trained_and_evaluated(
    inputs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Every element moves, the loss falls, and the page of problems is answered with it."""
    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    out = sft(tmp_path / "sft", inputs, begun, max_steps=12, learning_rate=5e-2)
    start, end = weights(begun), weights(out / "adapter")
    assert start.keys() == end.keys()
    assert all(np.mean(start[key] != end[key]) > 0.9 for key in start)
    losses = [json.loads(line)["loss"] for line in (out / "figures.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    tested = run_stage(
        "evaluate",
        {
            "evaluation": {"max_new_tokens": 6, "batch_tokens": 400},
            "model": MODEL,
            "format": "sft",
            "answer_format": "hash",
        },
        {
            "base": inputs["base"],
            "adapter": out / "adapter",
            "tokens": inputs["test_tokens"],
            "examples": inputs["test"],
        },
        tmp_path / "tested",
    )
    assert json.loads((tested / "metrics.json").read_text())["n"] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_of_the_answers_behind_the_virtual_tokens(
    inputs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Against PEFT's own forward pass of each row alone; the stage pads them to one batch."""
    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    out = sft(tmp_path / "sft", inputs, begun, max_steps=1, batch_size=16, accumulation=1)
    model = attach_adapter(load_base(inputs["base"], dtype="float32"), begun).eval()
    rows = token_rows(inputs["tokens"], form="sft")
    assert len(rows) == 16
    total = count = 0.0
    for prompt, answer in rows.values():
        with torch.no_grad():
            found = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        before = found[-len(answer) - 1 : -1]
        total += float(
            torch.nn.functional.cross_entropy(before, torch.tensor(answer), reduction="sum")
        )
        count += len(answer)
    first = json.loads((out / "figures.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_reads_it_as_we_do(inputs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    adapter = sft(tmp_path / "sft", inputs, begun) / "adapter"
    ours = attach_adapter(load_base(inputs["base"], dtype="float32"), adapter).eval()
    trained = attach_adapter(
        load_base(inputs["base"], dtype="float32"), adapter, training=True
    ).eval()
    plain = AutoModelForCausalLM.from_pretrained(inputs["base"], dtype=torch.float32)
    unadapted = logits(plain)
    theirs = logits(PeftModel.from_pretrained(plain, adapter).eval())
    assert torch.equal(logits(ours), theirs)
    torch.testing.assert_close(logits(trained), theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(theirs[:, -6:], unadapted, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_canonical_and_frozen(inputs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    first = initialize(tmp_path / "first", inputs["base"], kind)
    again = initialize(tmp_path / "again", inputs["base"], kind)
    assert files(first) == files(again)
    config = json.loads((first / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/tiny@0123"
    assert list(config) == sorted(config)
    assert (first / ENCODER).exists() == (kind == "p-tuning")
    model = attach_adapter(load_base(inputs["base"], dtype="float32"), first, training=True)
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_draws_it(inputs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    one = files(initialize(tmp_path / "one", inputs["base"], kind, seed=1))
    two = files(initialize(tmp_path / "two", inputs["base"], kind, seed=2))
    assert (one == two) == (kind == "ia3"), "which begins as ones"


def test_prompt_tuning_begins_with_words(inputs: dict[str, Path], tmp_path: Path) -> None:
    begun = weights(initialize(tmp_path / "initial", inputs["base"], "prompt-tuning"))
    words = load_base(inputs["base"], dtype="float32").get_input_embeddings().weight
    for row in begun["prompt_embeddings"]:
        assert (words.detach().numpy() == row).all(1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_float32_on_a_bfloat16_base_and_as_many_as_is_said(
    tiny_model: Path, kind: str
) -> None:
    section = PeftConfig.model_validate({"kind": kind, "virtual_tokens": 3})
    model = new(load_base(tiny_model, dtype="bfloat16"), section, seed=0)
    found = adapter_parameters(model)
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    shape = read_shape(tiny_model)
    assert shape is not None
    assert sum(weight.numel() for weight in found.values()) == other_elements(shape, section)
    trainable = {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert {id(weight) for weight in found.values()} == trainable, "none is missed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_stage_trains_on(inputs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """From what the first ended with: P-tuning's MLP too."""
    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    first = sft(tmp_path / "first", inputs, begun) / "adapter"
    second = sft(tmp_path / "second", inputs, first, learning_rate=1e-12, weight_decay=0.0)
    ours, theirs = weights(first), weights(second / "adapter")
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-7)


@contextmanager
def asked_at_once() -> Iterator[StopRequest]:
    with stop_request() as request:
        request.made = True
        yield request


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_that_was_stopped_ends_with_the_same_bytes(
    inputs: dict[str, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    whole = sft(tmp_path / "whole", inputs, begun)
    config, needed = sft_parts(inputs, begun)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    given = spec("sft", config, needed, scratch, runtime={"checkpoint_s": 0})
    out = tmp_path / "out"
    out.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(resume, "stop_request", asked_at_once)
        with pytest.raises(Stopped, match="stopped after step 1 of 3"):
            STAGES["sft"].run(given, out)
    STAGES["sft"].run(given, out)
    assert steady_files(out) == steady_files(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_trained_on_a_bfloat16_base(
    inputs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    config, needed = sft_parts(inputs, begun, max_steps=2)
    half = {**config, "model": {**MODEL, "dtype": "bfloat16"}}
    out = run_stage("sft", half, needed, tmp_path / "half")
    plain = sft(tmp_path / "plain", inputs, begun, max_steps=2)
    for key, tensor in weights(out / "adapter").items():
        assert tensor.dtype == np.float32
        assert np.isfinite(tensor).all()
        assert np.mean(tensor != weights(begun)[key]) > 0.5
    first, other = (
        json.loads((made / "figures.jsonl").read_text().splitlines()[0]) for made in (out, plain)
    )
    assert first["loss"] == pytest.approx(other["loss"], rel=0.01)


@pytest.mark.parametrize("kind", ["prompt-tuning", "p-tuning", "ia3"])
def test_activation_checkpointing_changes_rounding_alone(
    inputs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    begun = initialize(tmp_path / "initial", inputs["base"], kind)
    plain = weights(sft(tmp_path / "plain", inputs, begun) / "adapter")
    saving = sft(tmp_path / "saving", inputs, begun, activation_checkpointing=True)
    for key, tensor in weights(saving / "adapter").items():
        np.testing.assert_allclose(tensor, plain[key], rtol=1e-3, atol=1e-5)


def test_a_model_without_such_modules_is_refused() -> None:
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2)
    with pytest.raises(ModelError, match="this model has no k_proj, v_proj, down_proj; use anoth"):
        new(model, PeftConfig(kind="ia3"), seed=0)


def test_an_adapter_of_another_width_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    adapter = initialize(tmp_path / "initial", inputs["base"], "prompt-tuning")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "num_virtual_tokens": 9}))
    with pytest.raises(ModelError, match="this adapter's is"):
        attach_adapter(load_base(inputs["base"], dtype="float32"), adapter)
