"""What an object keeps in memory: every tensor that can be reached from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch


def held_bytes(root: Any, *, besides: Sequence[torch.Tensor] = ()) -> int:
    """Bytes of the storages reachable from `root` through attributes and containers, each counted
    once, without those of `besides` and of any gradient."""
    seen: set[int] = set()
    left_out = {tensor.untyped_storage().data_ptr() for tensor in besides}
    storages: dict[int, int] = {}
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            storage = found.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in left_out:
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(found, Mapping):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, list | tuple | Set):
            waiting += found
        elif not isinstance(found, type) and type(found).__module__ != "builtins":
            waiting += getattr(found, "__dict__", {}).values()
            slots = getattr(type(found), "__slots__", ())
            waiting += [getattr(found, name) for name in slots if hasattr(found, name)]
    return sum(storages.values())
