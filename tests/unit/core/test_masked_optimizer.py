"""Active elements move as dense AdamW moves them; the others keep their bits."""

from __future__ import annotations

import pytest
import torch

from lorapar_core.errors import TrainingError
from lorapar_core.masked_optimizer import MaskedAdamW, mask_digest, restrict

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2)}


def parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for key, shape in SHAPES.items()
    }


def masks(share: float = 0.4, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {key: torch.rand(s, generator=generator) < share for key, s in SHAPES.items()}
    for mask in found.values():
        mask.view(-1)[0] = True
    return found


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def train(steps: range, ours: dict[str, torch.nn.Parameter], optimizer: MaskedAdamW) -> None:
    for step in steps:
        for key, gradient in gradients(step).items():
            ours[key].grad = gradient.clone()
        optimizer.step()


def test_equals_dense_adamw_masked_in_every_term() -> None:
    ours, dense, chosen = parameters(), parameters(), masks()
    train(range(5), ours, MaskedAdamW(ours, chosen, **SETTINGS))
    reference = torch.optim.AdamW(dense.values(), fused=True, **SETTINGS)
    start = parameters()
    for step in range(5):
        for key, gradient in gradients(step).items():
            dense[key].grad = gradient.clone()
        reference.step()
    for key, mask in chosen.items():
        assert torch.equal(ours[key].data[mask], dense[key].data[mask])
        assert torch.equal(ours[key].data[~mask], start[key].data[~mask])
        assert not torch.equal(ours[key].data, start[key].data)


def test_state_is_of_active_elements_only() -> None:
    ours, chosen = parameters(), masks()
    optimizer = MaskedAdamW(ours, chosen, **SETTINGS)
    train(range(1), ours, optimizer)
    inner = optimizer.state_dict()["inner"]["state"][0]
    active = sum(int(mask.sum()) for mask in chosen.values())
    assert inner["exp_avg"].numel() == inner["exp_avg_sq"].numel() == active
    assert optimizer.active_count == active


def test_a_saved_state_goes_on_with_the_same_bits(tmp_path: object) -> None:
    straight, chosen = parameters(), masks()
    train(range(6), straight, MaskedAdamW(straight, chosen, **SETTINGS))
    halves = parameters()
    first = MaskedAdamW(halves, chosen, **SETTINGS)
    train(range(3), halves, first)
    second = MaskedAdamW(halves, chosen, **SETTINGS)
    second.load_state_dict(first.state_dict())
    train(range(3, 6), halves, second)
    assert all(torch.equal(straight[key], halves[key]) for key in SHAPES)


def test_a_scheduler_reaches_the_inner_optimizer() -> None:
    ours, still = parameters(), parameters()
    optimizer = MaskedAdamW(ours, masks(), **SETTINGS)
    optimizer.param_groups[0]["lr"] = 0.0
    train(range(1), ours, optimizer)
    assert all(torch.equal(ours[key], still[key]) for key in SHAPES)


def test_refuses_state_of_another_mask() -> None:
    saved = MaskedAdamW(parameters(), masks(), **SETTINGS).state_dict()
    other = MaskedAdamW(parameters(), masks(seed=9), **SETTINGS)
    with pytest.raises(TrainingError, match="saved for mask"):
        other.load_state_dict(saved)


def test_restrict_gives_the_active_gradients_only() -> None:
    ours, chosen = parameters(), masks()
    chosen["b"] = torch.zeros(SHAPES["b"], dtype=torch.bool)
    trained, kept = restrict(ours, chosen)
    assert set(trained) == set(kept) == {"a", "c"}
    assert not ours["b"].requires_grad
    for _ in range(2):  # accumulated
        sum((p * p).sum() for p in trained.values()).backward()
    for key, parameter in trained.items():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, 4 * parameter.data * chosen[key])


def test_refuses_masks_of_another_adapter_and_an_empty_one() -> None:
    with pytest.raises(TrainingError, match="keys differ"):
        restrict(parameters(), {"a": torch.ones(3, 5, dtype=torch.bool)})
    empty = {key: torch.zeros(shape, dtype=torch.bool) for key, shape in SHAPES.items()}
    with pytest.raises(TrainingError, match="no active element"):
        restrict(parameters(), empty)


def test_the_digest_tells_masks_apart() -> None:
    assert mask_digest(masks()) == mask_digest(masks())
    assert mask_digest(masks()) != mask_digest(masks(seed=2))
