"""What a recipe's `optimizer` names."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from lorapar_core.errors import ConfigError

if TYPE_CHECKING:
    import torch


def require_optimizer(name: str) -> None:
    """Refuse an optimizer whose package isn't installed, without importing it.

    Raises:
        ConfigError: as said.
    """
    if name == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "optimizer adamw_8bit needs bitsandbytes, which isn't installed; use adamw, or "
            "pip install bitsandbytes (the extra `8bit`)"
        )


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class that `name` stands for, one of `masked_optimizer.ELEMENTWISE`.

    Raises:
        ConfigError: its package isn't installed.
    """
    import torch

    require_optimizer(name)
    if name == "adamw":
        return torch.optim.AdamW
    from bitsandbytes.optim.adamw import AdamW8bit

    found: type[torch.optim.Optimizer] = AdamW8bit
    return found
