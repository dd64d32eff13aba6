"""Active elements move as the dense optimizer moves them; the others keep their bits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from held_tensors import held_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from lorapar_core import masked_optimizer, packed_mask
from lorapar_core.errors import TrainingError
from lorapar_core.masked_optimizer import ELEMENTWISE, MaskedOptimizer, refuse_unfit, restrict
from lorapar_core.packed_mask import PackedMask, mask_digest, positions

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SHAPES: dict[str, tuple[int, ...]] = {"a": (4, 8), "b": (16,), "c": (2, 8), "d": (40, 52)}
"""Whole vectors of 16, as LoRA tensors are: the dense kernels round a rest otherwise."""
Tensors = dict[str, torch.Tensor]


def parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for key, shape in SHAPES.items()
    }


def masks(share: float = 0.4, seed: int = 1) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    found = {key: torch.rand(s, generator=generator) < share for key, s in SHAPES.items()}
    for mask in found.values():
        mask.view(-1)[0] = True
    return found


def packed(chosen: Tensors) -> dict[str, PackedMask]:
    return {key: PackedMask(mask) for key, mask in chosen.items()}


def masked(
    ours: Mapping[str, torch.nn.Parameter], chosen: Tensors | None = None, **changes: Any
) -> MaskedOptimizer:
    return MaskedOptimizer(ours, packed(chosen or masks()), **{**SETTINGS, **changes})


def gradients(step: int) -> Tensors:
    generator = torch.Generator().manual_seed(100 + step)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def train(
    steps: range, ours: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    for step in steps:
        for key, gradient in gradients(step).items():
            ours[key].grad = gradient.clone()
        optimizer.step()


def assert_as_dense(ours: Mapping[str, torch.Tensor], dense: Mapping[str, torch.Tensor]) -> None:
    """The masked elements of `ours` have the bits of `dense`, the others those of the start."""
    start = parameters()
    for key, mask in masks().items():
        assert torch.equal(ours[key].data[mask], dense[key].data[mask]), key
        assert torch.equal(ours[key].data[~mask], start[key].data[~mask]), key
        assert not torch.equal(ours[key].data, start[key].data), key


OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.AdamW, SETTINGS),
    (torch.optim.AdamW, {**SETTINGS, "amsgrad": True}),
    (torch.optim.Adam, SETTINGS),
    (torch.optim.NAdam, SETTINGS),
    (torch.optim.RAdam, SETTINGS),
    (torch.optim.Adamax, SETTINGS),
    (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.Adagrad, {"lr": 1e-2, "weight_decay": 0.1, "initial_accumulator_value": 0.1}),
    (torch.optim.RMSprop, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.Adadelta, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.ASGD, {"lr": 1e-2, "weight_decay": 0.1}),
    (torch.optim.Rprop, {"lr": 1e-2}),
]


@pytest.mark.parametrize(("kind", "given_settings"), OPTIMIZERS)
@pytest.mark.parametrize("chunk", [1 << 22, 50, 1])
def test_equals_the_dense_optimizer_masked_in_every_term(
    kind: type[torch.optim.Optimizer],
    given_settings: dict[str, Any],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit, with the same kernel."""
    monkeypatch.setattr(masked_optimizer, "CHUNK", chunk)
    ours, dense = parameters(), parameters()
    train(range(5), ours, MaskedOptimizer(ours, packed(masks()), inner=kind, **given_settings))
    kernel = masked_optimizer._fused(kind)
    train(range(5), dense, kind(dense.values(), **kernel, **given_settings))
    assert_as_dense(ours, dense)


@settings(max_examples=60, deadline=None)
@given(
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    sizes=st.lists(st.integers(1, 9).map(lambda n: 16 * n), min_size=1, max_size=6),
    chunk=st.integers(1, 300),
)
def test_any_mask_trains_its_elements_and_no_other(
    share: float, seed: int, sizes: list[int], chunk: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = {f"k{k}": torch.randn(size, generator=generator) for k, size in enumerate(sizes)}
    chosen = {key: torch.rand(t.shape, generator=generator) < share for key, t in start.items()}
    for mask in chosen.values():
        mask[-1] = True
    ours = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in start.items()}
    dense = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in start.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_optimizer, "CHUNK", chunk)
        optimizer = MaskedOptimizer(ours, packed(chosen), **SETTINGS)
    reference = torch.optim.AdamW(dense.values(), fused=True, **SETTINGS)
    for _ in range(3):
        for key, tensor in start.items():
            ours[key].grad = torch.randn(tensor.shape, generator=generator)
            dense[key].grad = ours[key].grad
        optimizer.step()
        reference.step()
    for key, mask in chosen.items():
        assert torch.equal(ours[key].data[mask], dense[key].data[mask])
        assert torch.equal(ours[key].data[~mask], start[key][~mask])


def test_tensors_of_any_size_train_nearly_as_dense_ones_do() -> None:
    """The dense kernel rounds the last few elements of odd tensors otherwise, by a bit."""
    generator = torch.Generator().manual_seed(3)
    start = {f"k{size}": torch.randn(size, generator=generator) for size in (1, 7, 33, 1001)}
    ours = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in start.items()}
    dense = {key: torch.nn.Parameter(tensor.clone()) for key, tensor in start.items()}
    chosen = {key: torch.ones(tensor.shape, dtype=torch.bool) for key, tensor in start.items()}
    optimizer = MaskedOptimizer(ours, packed(chosen), **SETTINGS)
    reference = torch.optim.AdamW(dense.values(), fused=True, **SETTINGS)
    for _ in range(3):
        for key, tensor in start.items():
            ours[key].grad = torch.randn(tensor.shape, generator=generator)
            dense[key].grad = ours[key].grad
        optimizer.step()
        reference.step()
    for key in start:
        torch.testing.assert_close(ours[key].data, dense[key].data, rtol=1e-6, atol=1e-7)
        assert not torch.equal(ours[key].data, start[key])


def test_what_is_held_between_steps_is_small() -> None:
    """Moments of active elements, and a bit an element: no weight stands twice."""
    shape = (100, 1000)
    generator = torch.Generator().manual_seed(0)
    ours = {"a": torch.nn.Parameter(torch.randn(shape, generator=generator))}
    mask = PackedMask(torch.rand(shape, generator=generator) < 0.4)
    optimizer = MaskedOptimizer(ours, {"a": mask}, **SETTINGS)
    ours["a"].grad = torch.randn(shape, generator=generator)
    optimizer.step()
    dense = torch.optim.AdamW(ours.values(), fused=True, **SETTINGS)
    dense.step()
    held, of_dense = (held_bytes(o, besides=list(ours.values())) for o in (optimizer, dense))
    assert of_dense == 8 * 100_000 + 4, "two moments an element, and the step"
    assert 8 * mask.active < held <= 0.45 * of_dense
    assert optimizer.active_count == mask.active


def test_a_saved_state_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_optimizer, "CHUNK", 20)
    straight = parameters()
    train(range(6), straight, masked(straight))
    halves = parameters()
    first = masked(halves)
    train(range(3), halves, first)
    second = masked(halves)
    second.load_state_dict(first.state_dict())
    train(range(3, 6), halves, second)
    assert all(torch.equal(straight[key], halves[key]) for key in SHAPES)


def test_a_scheduler_reaches_the_inner_optimizer() -> None:
    ours, still = parameters(), parameters()
    optimizer = masked(ours)
    optimizer.param_groups[0]["lr"] = 0.0
    train(range(1), ours, optimizer)
    assert all(torch.equal(ours[key], still[key]) for key in SHAPES)


def test_refuses_state_of_another_mask_or_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = masked(parameters()).state_dict()
    with pytest.raises(TrainingError, match="saved for mask_digest"):
        masked(parameters(), masks(seed=9)).load_state_dict(saved)
    plain = MaskedOptimizer(parameters(), packed(masks()), inner=torch.optim.SGD, lr=1.0)
    with pytest.raises(TrainingError, match="saved for optimizer AdamW, this stage's is SGD"):
        plain.load_state_dict(saved)
    monkeypatch.setattr(masked_optimizer, "CHUNK", 20)
    with pytest.raises(TrainingError, match="saved for chunks"):
        masked(parameters()).load_state_dict(saved)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_step_that_fails_leaves_its_chunk_as_it_was(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_optimizer, "CHUNK", 50)  # a and b, c, d
    ours, start = parameters(), parameters()
    optimizer = masked(ours)

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(optimizer._inner[failing], "step", fail)
    with pytest.raises(MemoryError):
        train(range(1), ours, optimizer)
    stepped = {key for key in SHAPES if not torch.equal(ours[key], start[key])}
    assert stepped == (set(), {"a", "b"})[failing]
    assert all(chunk.flat.numel() == 0 for chunk in optimizer._chunks)


def test_a_missing_gradient_is_one_of_zeros() -> None:
    ours, dense = parameters(), parameters()
    mine, reference = masked(ours), torch.optim.AdamW(dense.values(), fused=True, **SETTINGS)
    for step in range(2):
        for key, gradient in gradients(step).items():
            ours[key].grad = None if key == "b" else gradient.clone()
            dense[key].grad = torch.zeros_like(gradient) if key == "b" else gradient.clone()
        mine.step()
        reference.step()
    assert_as_dense(ours, dense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: torch.nn.Parameter(p.double()), "d is torch.float64, contiguous: True; masked"),
        (lambda p: torch.nn.Parameter(p.bfloat16()), "d is torch.bfloat16, contiguous: True"),
        (lambda p: torch.nn.Parameter(p.t().contiguous().t()), "contiguous: False"),
        (lambda p: torch.nn.Parameter(p[:-1]), r"shape \(40, 52\) on cpu; expected \(39, 52\)"),
        (lambda p: torch.nn.Parameter(p.to("meta")), "on cpu; expected .* on meta"),
    ],
)
def test_parameters_that_would_lose_bits_are_refused(change: Any, message: str) -> None:
    ours = parameters()
    ours["d"] = change(ours["d"].data)
    with pytest.raises(TrainingError, match=message):
        masked(ours)
    with pytest.raises(TrainingError, match=message):
        restrict(ours, packed(masks()))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (torch.optim.LBFGS, "LBFGS needs a closure; masked training takes Adadelta, "),
        (torch.optim.Adafactor, "Adafactor needs a parameter's whole matrix"),
        (torch.optim.Muon, "Muon needs a parameter's whole matrix"),
        (torch.optim.SparseAdam, "SparseAdam needs sparse gradients"),
        (type("Shampoo", (torch.optim.Optimizer,), {}), "Shampoo is not known to treat each"),
    ],
)
def test_what_is_not_element_wise_is_refused_by_name(
    kind: type[torch.optim.Optimizer], message: str
) -> None:
    ours = parameters()
    with pytest.raises(TrainingError, match=message):
        MaskedOptimizer(ours, packed(masks()), inner=kind)
    with pytest.raises(TrainingError, match=message):
        refuse_unfit(kind)


def test_all_of_torchs_optimizers_are_known() -> None:
    """A new one of torch's is to be looked at, not to be refused for being new."""
    found = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    } - {"Optimizer"}
    assert found - set(ELEMENTWISE) == {"LBFGS", "Adafactor", "Muon", "SparseAdam"}


def test_a_closure_is_refused() -> None:
    with pytest.raises(TrainingError, match="takes no closure"):
        masked(parameters()).step(lambda: 0.0)


def test_restrict_gives_the_active_gradients_only() -> None:
    ours, chosen = parameters(), masks()
    chosen["b"] = torch.zeros(SHAPES["b"], dtype=torch.bool)
    trained, kept = restrict(ours, packed(chosen))
    assert set(trained) == set(kept) == {"a", "c", "d"}
    assert not ours["b"].requires_grad
    for _ in range(2):  # accumulated
        sum((p * p).sum() for p in trained.values()).backward()
    for key, parameter in trained.items():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, 4 * parameter.data * chosen[key])
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained.values() if p.grad is not None])
    active = torch.cat([4 * ours[key].data[chosen[key]] for key in trained])
    torch.testing.assert_close(norm, active.norm())


def test_refuses_masks_of_another_adapter_and_an_empty_one() -> None:
    with pytest.raises(TrainingError, match="keys differ"):
        restrict(parameters(), {"a": PackedMask(torch.ones(4, 8, dtype=torch.bool))})
    empty = {key: torch.zeros(shape, dtype=torch.bool) for key, shape in SHAPES.items()}
    with pytest.raises(TrainingError, match="no active element"):
        restrict(parameters(), packed(empty))
    with pytest.raises(TrainingError, match=r"mask of . has no active element; expected"):
        masked(parameters(), empty)


def test_an_infinite_gradient_of_an_inactive_element_reaches_nothing() -> None:
    ours, chosen = parameters(), masks()
    trained, _ = restrict(ours, packed(chosen))
    factors = {key: torch.where(mask, 2.0, torch.inf) for key, mask in chosen.items()}
    sum((p * factors[key]).sum() for key, p in trained.items()).backward()
    for key, parameter in trained.items():
        assert torch.equal(parameter.grad, 2.0 * chosen[key])


def test_a_second_mask_on_the_same_parameters_is_refused() -> None:
    ours = parameters()
    restrict(ours, packed(masks()))
    with pytest.raises(TrainingError, match="has gradient hooks already; attach the adapter anew"):
        restrict(ours, packed(masks(seed=2)))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=40), min_size=1, max_size=5))
def test_a_packed_mask_is_the_mask(lists: list[list[bool]]) -> None:
    made = [PackedMask(torch.tensor(flags)) for flags in lists]
    for mask, flags in zip(made, lists, strict=True):
        assert mask.flags().tolist() == flags
        assert mask.active == sum(flags)
        assert mask.bits.numel() == -(-len(flags) // 8)
        assert packed_mask._flags(mask.bits, len(flags)).tolist() == flags, "as on a GPU"
    whole = list(itertools.chain.from_iterable(lists))
    assert positions(made).tolist() == [k for k, flag in enumerate(whole) if flag]


def test_a_mask_that_is_not_bool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a mask of torch\.uint8 was given; expected torch\.bool"):
        PackedMask(torch.full((4,), 4, dtype=torch.uint8))


def test_the_digest_tells_masks_apart() -> None:
    assert mask_digest(packed(masks())) == mask_digest(packed(masks()))
    assert mask_digest(packed(masks())) != mask_digest(packed(masks(seed=2)))
    flat, square = torch.ones(4, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    assert mask_digest(packed({"a": flat})) != mask_digest(packed({"a": square}))
