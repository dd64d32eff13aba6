"""A mask of one bit an element, on the device of what it masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class PackedMask:
    """Which elements of a tensor are active, in ⌈n / 8⌉ bytes; made of a bool tensor.

    Raises:
        ValueError: the mask isn't bool.
    """

    def __init__(self, mask: torch.Tensor, device: torch.device | str = "cpu") -> None:
        if mask.dtype != torch.bool:
            raise ValueError(f"a mask of {mask.dtype} was given; expected torch.bool")
        self.shape = mask.shape
        self.active = int(mask.sum())
        """How many elements are."""
        bits = np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little")
        self.bits = torch.from_numpy(bits).to(device)

    def flags(self) -> torch.Tensor:
        """Bool, of the tensor's shape."""
        if self.bits.device.type == "cpu":
            return torch.from_numpy(self._unpacked().view(np.bool_)).view(self.shape)
        return _flags(self.bits, self.shape.numel()).view(self.shape)

    def _unpacked(self) -> NDArray[np.uint8]:
        count = self.shape.numel()
        return np.unpackbits(self.bits.numpy(), count=count, bitorder="little")


def _flags(bits: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` bits as bool, by torch alone."""
    places = torch.arange(8, device=bits.device, dtype=torch.uint8)
    return (bits.unsqueeze(1) >> places & 1).view(-1)[:count].bool()


def positions(masks: Sequence[PackedMask]) -> torch.Tensor:
    """Positions of the active elements in the masked tensors' concatenation: int64, ascending."""
    if masks[0].bits.device.type == "cpu":  # numpy takes a seventh of torch's time
        flat = np.concatenate([mask._unpacked() for mask in masks])
        return torch.from_numpy(np.flatnonzero(flat.view(np.bool_)))
    return torch.cat([mask.flags().view(-1) for mask in masks]).nonzero().squeeze(1)


def mask_digest(masks: Mapping[str, PackedMask]) -> str:
    """sha256 over keys, shapes and bits, in key order."""
    digest = hashlib.sha256()
    for key in sorted(masks):
        digest.update(f"{key} {tuple(masks[key].shape)}\n".encode())
        digest.update(masks[key].bits.cpu().numpy().tobytes())
    return digest.hexdigest()
