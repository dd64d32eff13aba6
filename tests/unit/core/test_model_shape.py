"""A model's shape, read from `config.json` or a GGUF header; none where it isn't told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model_dir
from tiny_gguf import write_tiny_gguf

from lorapar_core.gguf_header import read_header
from lorapar_core.model_shape import read_shape, shape_of

LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "vocab_size": 448,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_that_are_stored(tmp_path: Path, tied: bool) -> None:
    from safetensors.numpy import load_file

    model = tiny_model_dir(tmp_path / "model", tied=tied)
    shape = read_shape(model)
    assert shape is not None
    assert shape.parameters == sum(w.size for w in load_file(model / "model.safetensors").values())


def test_a_gguf_file_has_the_shape_of_its_model(tiny_model: Path, tmp_path: Path) -> None:
    file = write_tiny_gguf(tiny_model, tmp_path / "tiny.gguf", quantized=True)
    assert read_shape(file) == read_shape(tiny_model)


def test_older_files_leave_out_what_follows() -> None:
    fields = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    shape = shape_of(fields)
    assert shape is not None
    assert (shape.key_value_heads, shape.head_width) == (4, 16)


@pytest.mark.parametrize("missing", [n for n in LLAMA if n != "num_key_value_heads"])
def test_a_missing_field_gives_no_shape(missing: str) -> None:
    assert shape_of({name: value for name, value in LLAMA.items() if name != missing}) is None


@pytest.mark.parametrize(
    "other",
    [
        {"num_local_experts": 8},
        {"n_routed_experts": 64},
        {"quantization_config": {"bits": 4}},
        {"kv_lora_rank": 512},
        {"hidden_size": "64"},
        {"num_hidden_layers": 0},
    ],
)
def test_another_kind_of_model_gives_no_shape(other: dict[str, Any]) -> None:
    assert shape_of(LLAMA) is not None
    assert shape_of({**LLAMA, **other}) is None


def test_a_folder_without_a_config_gives_no_shape(tmp_path: Path) -> None:
    assert read_shape(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert read_shape(tmp_path) is not None


def test_a_file_that_is_no_gguf_gives_no_shape(tiny_model: Path, tmp_path: Path) -> None:
    whole = write_tiny_gguf(tiny_model, tmp_path / "whole.gguf").read_bytes()
    for number, content in enumerate((b"", b"GGML1234", whole[:5], whole[:200])):
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(content)
        assert read_header(file) is None
        assert read_shape(file) is None
