"""A mask of one bit an element, on the device of what it masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch


class PackedMask:
    """Which elements of a tensor are active, in ⌈n / 8⌉ bytes."""

    def __init__(self, mask: torch.Tensor, device: torch.device | str = "cpu") -> None:
        self.shape = mask.shape
        self.active = int(mask.sum())
        """How many elements are."""
        bits = np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little")
        self.bits = torch.from_numpy(bits).to(device)

    def flags(self) -> torch.Tensor:
        """Bool, of the tensor's shape."""
        return self._flat().bool().view(self.shape)

    def _flat(self) -> torch.Tensor:
        """0 or 1 an element, uint8, (n,)."""
        count = self.shape.numel()
        if self.bits.device.type == "cpu":  # torch takes eighty times as long
            return torch.from_numpy(
                np.unpackbits(self.bits.numpy(), count=count, bitorder="little")
            )
        powers = torch.arange(8, device=self.bits.device, dtype=torch.uint8)
        return (self.bits.unsqueeze(1) >> powers & 1).view(-1)[:count]


def positions(masks: Sequence[PackedMask]) -> torch.Tensor:
    """Positions of the active elements in the masked tensors' concatenation: int64, ascending."""
    flat = torch.cat([mask._flat() for mask in masks])
    if flat.device.type == "cpu":  # torch takes seven times as long
        return torch.from_numpy(np.flatnonzero(flat.numpy().view(np.bool_)))
    return flat.nonzero().squeeze(1)


def mask_digest(masks: Mapping[str, PackedMask]) -> str:
    """sha256 over keys, shapes and bits, in key order."""
    digest = hashlib.sha256()
    for key in sorted(masks):
        digest.update(f"{key} {tuple(masks[key].shape)}\n".encode())
        digest.update(masks[key].bits.cpu().numpy().tobytes())
    return digest.hexdigest()
