"""What a recipe's `optimizer` names: found, refused, and 8-bit AdamW under a mask."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec

import pytest
import torch

from lorapar_core.errors import ConfigError
from lorapar_core.masked_optimizer import MaskedOptimizer
from lorapar_core.optimizers import optimizer_class, require_optimizer
from lorapar_core.packed_mask import PackedMask

WIDTH = 128


def test_adamw_is_torchs() -> None:
    assert optimizer_class("adamw") is torch.optim.AdamW


def test_without_bitsandbytes_8_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    require_optimizer("adamw")
    for refuse in (require_optimizer, optimizer_class):
        with pytest.raises(
            ConfigError, match=r"adamw_8bit needs bitsandbytes.* pip install bitsandbytes"
        ):
            refuse("adamw_8bit")


def weights() -> torch.nn.Parameter:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))


def mask() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(WIDTH, WIDTH, generator=generator) < 0.4


def optimizer(parameter: torch.nn.Parameter) -> MaskedOptimizer:
    inner = optimizer_class("adamw_8bit")
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    return MaskedOptimizer({"a": parameter}, {"a": PackedMask(mask())}, inner=inner, **settings)


def train(parameter: torch.nn.Parameter, stepped: MaskedOptimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        parameter.grad = torch.randn(WIDTH, WIDTH, generator=generator)
        stepped.step()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra 8bit")
def test_8_bit_adamw_trains_active_elements_and_goes_on_with_the_same_bits() -> None:
    whole, start = weights(), weights()
    train(whole, optimizer(whole), range(6))
    assert torch.equal(whole[~mask()], start[~mask()])
    assert (whole[mask()] != start[mask()]).float().mean() > 0.99

    halves = weights()
    before = optimizer(halves)
    train(halves, before, range(3))
    saved = copy.deepcopy(before.state_dict())
    (state,) = saved["inner"][0]["state"].values()
    eight = state["__bnb_optimizer_quant_state__"]
    assert [eight[name].dtype for name in ("state1", "state2")] == [torch.uint8, torch.uint8]
    after = optimizer(halves)
    after.load_state_dict(saved)
    train(halves, after, range(3, 6))
    assert torch.equal(halves, whole)
