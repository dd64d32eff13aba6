"""Nested state (dicts, lists, tensors, numbers) as one JSON and one safetensors file.

Neither can hold code, so a checkpoint that somebody else could write to is only ever data. A tensor
stands in the JSON as ``{"tensor": name}``, a tuple as ``{"tuple": [...]}``, and a dict as
``{"dict": [[key, value], ...]}``, for an optimizer's keys are numbers. Python writes a float so
that it reads the same float.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

PLAIN = (str, int, float, bool, type(None))


def save_state(folder: Path, name: str, state: Any) -> None:
    """Write `state` to `name`.json and `name`.safetensors in `folder`.

    Raises:
        TypeError: it holds something else than said above; the message has its place.
        OSError: the disk refuses.
    """
    tensors: dict[str, torch.Tensor] = {}
    document = _plain(state, "state", tensors)
    (folder / f"{name}.json").write_text(json.dumps(document))
    # Not safetensors' own writing: on a full disk that raises an error of its own kind.
    (folder / f"{name}.safetensors").write_bytes(save(tensors))


def load_state(folder: Path, name: str) -> Any:
    """What `save_state` was given; tensors are on the CPU."""
    document = json.loads((folder / f"{name}.json").read_text())
    return _whole(document, load_file(folder / f"{name}.safetensors"))


def _plain(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # A copy each: safetensors takes no two tensors of one storage.
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(value, Mapping):
        return {"dict": [[k, _plain(v, f"{place}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        parts = [_plain(part, f"{place}.{k}", tensors) for k, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if type(value) not in PLAIN:  # a numpy number is a float too, and would come back as one
        raise TypeError(f"{place} is a {type(value).__name__}, which a checkpoint can't hold")
    return value


def _whole(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_whole(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_whole(part, tensors) for part in content)
    return {key: _whole(part, tensors) for key, part in content}
