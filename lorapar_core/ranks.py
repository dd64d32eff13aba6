"""The processes that train one stage together (data parallel), as torch and accelerate number them.

Alone, a process is rank 0 of 1, and nothing here touches torch.distributed.
"""

from __future__ import annotations

import gc
import os
from typing import Any

LAUNCHED = "LORAPAR_LAUNCHED"
"""Environment variable of ranks that our launcher started; it looks after their checkpoints."""
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


def started() -> bool:
    """Whether somebody (our launcher, torchrun, accelerate launch) started this process as one."""
    return "WORLD_SIZE" in os.environ


def gather(value: Any) -> list[Any]:
    """Every process's value, in rank order, at rank 0; elsewhere an empty list."""
    if world() == 1:
        return [value]
    import torch

    found: list[Any] = [None] * world()
    torch.distributed.gather_object(value, found if rank() == 0 else None)
    return found if rank() == 0 else []


def everywhere(value: Any) -> list[Any]:
    """Every process's value, in rank order, in all of them."""
    if world() == 1:
        return [value]
    import torch

    found: list[Any] = [None] * world()
    torch.distributed.all_gather_object(found, value)
    return found


def any_of(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set in some process; the same answer in all."""
    return [any(each) for each in zip(*everywhere(flags), strict=True)]


def part() -> None:
    """Leave the group, at a stage's end.

    Its threads end with the last object that holds it, and a model that trained in parallel does.
    One that outlives the interpreter may abort the process.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
