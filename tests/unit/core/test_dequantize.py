"""A GGUF file becomes a plain model: same weights, same tokens, trainable, and naming no place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_gguf import write_tiny_gguf
from tiny_inputs import files, run_stage

from lorapar_core.errors import ModelError


def dequantized(gguf: Path, out: Path) -> Path:
    return run_stage("dequantize", {}, {"gguf": gguf}, out)


def weights(model: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(model / "model.safetensors"))


def test_float_weights_come_back_to_the_bit(tiny_model: Path, tmp_path: Path) -> None:
    made = dequantized(write_tiny_gguf(tiny_model, tmp_path / "tiny.gguf"), tmp_path / "out")
    expected, found = weights(tiny_model), weights(made / "base")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert np.array_equal(found[name], weight), name


def test_the_model_answers_and_reads_as_before(tiny_model: Path, tmp_path: Path) -> None:
    """Rotary positions and grouped heads too, which the weights alone don't show."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = dequantized(write_tiny_gguf(tiny_model, tmp_path / "tiny.gguf"), tmp_path / "out")
    ids = torch.arange(6, 60).reshape(2, 27)
    logits = []
    for folder in (tiny_model, made / "base"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            logits.append(model(input_ids=ids, use_cache=False).logits)
    assert torch.equal(*logits)

    before, after = (AutoTokenizer.from_pretrained(f) for f in (tiny_model, made / "tokenizer"))
    messages = [{"role": "user", "content": "Maya has 5 apples. How many?\n#### 8"}]
    asked = {"tokenize": False, "add_generation_prompt": True}
    prompt = before.apply_chat_template(messages, **asked)
    assert after.apply_chat_template(messages, **asked) == prompt
    assert after(prompt)["input_ids"] == before(prompt)["input_ids"]
    assert (after.eos_token, after.pad_token) == (before.eos_token, before.pad_token)
    assert after.model_max_length == 1024, "the model's context: GGUF says nothing of it"


def test_quantized_weights_are_as_near_as_eight_bits_are(tiny_model: Path, tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tiny_model, tmp_path / "tiny.gguf", quantized=True)
    made = dequantized(gguf, tmp_path / "out")
    for name, weight in weights(tiny_model).items():
        found = weights(made / "base")[name]
        assert found.dtype == np.float32
        step = np.abs(weight).max() / 127
        assert np.abs(found - weight).max() <= step, name
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(made / "base")
    assert not getattr(model, "is_quantized", False), "trl refuses to train one that is"
    model.save_pretrained(tmp_path / "again")


def test_the_result_names_no_place(tiny_model: Path, tmp_path: Path) -> None:
    """The same file elsewhere gives the same bytes."""
    made = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        gguf = write_tiny_gguf(tiny_model, tmp_path / name / f"{name}.gguf")
        made.append(files(dequantized(gguf, tmp_path / name / "out")))
    assert made[0] == made[1]
    for name, content in made[0].items():
        assert str(tmp_path).encode() not in content, name
    assert {name.partition("/")[0] for name in made[0]} == {"base", "tokenizer"}
    config = json.loads(made[0]["base/config.json"])
    assert "quantization_config" not in config


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match=r"bad\.gguf can't be dequantised"):
        dequantized(tmp_path / "bad.gguf", tmp_path / "out")
