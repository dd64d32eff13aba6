"""GRPO's completions without the work that `generate` does for nothing.

- Each distinct prompt goes through the model once, its keys and values are copied to the group.
- A completion that has ended leaves the batch; trl computes padding until the longest one ends.
- Keys and values have room to grow in, where transformers copies all of them at every token.
- A step's micro-batches hold whole groups, of which `label_logprobs` computes a prompt once.

Tokens are drawn from softmax(z / τ) after transformers' own top-k, top-p and min-p, by torch's
global generator. The distribution is `generate`'s, and so is each greedy token; which random number
a completion gets is not. Nothing is kept from one call to the next.

trl's own way stays for what isn't known here: models that keep more of earlier tokens than keys and
values (sliding windows, recurrent states), positions that depend on the longest row, images, tools,
other generation arguments, vLLM, continuous batching, sharded weights (`_knows`).

Either way the model's own generation config counts for its end tokens only, as in evaluation:
`generate` would fill what the recipe leaves open from it (suppressed tokens, a min-p), and draw
from another distribution than the loss has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer
from trl.models import unwrap_model_for_generation

from lorapar_core.errors import TrainingError
from lorapar_core.label_logprobs import has_fixed_positions
from lorapar_core.row_passes import has_plain_cache
from lorapar_core.sharding import is_sharded

ROOM = 64
"""Tokens by which a cache grows at a time."""
EXCHANGEABLE = ("grpo", "dr_grpo", "dapo")
"""Losses that are sums over completions, however a step's are dealt out to its micro-batches."""

Sampler = Callable[[torch.Tensor], torch.Tensor]
"""Logits (rows, vocabulary) float32 -> tokens (rows,) int64."""


class Rollout:
    """Mixin for trl's GRPOTrainer: generation as told above, and micro-batches of whole groups."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        trainer: Any = self
        if trainer.use_vllm:  # trl makes no config then, and `generate` isn't called
            return
        base = trainer.accelerator.unwrap_model(trainer.model).get_base_model()
        base.generation_config = GenerationConfig(
            pad_token_id=trainer.generation_config.pad_token_id, eos_token_id=trainer.eos_token_ids
        )

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        trainer: Any = self
        if images is not None or multimodal_fields or has_tool_images or not _knows(trainer):
            return super()._generate_single_turn(  # type: ignore[misc]
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                generation_kwargs=trainer.generation_kwargs,
                gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
        ):
            ids = sampled(
                model,
                prompt_ids,
                sampler=sampler(trainer.generation_config),
                ends=trainer.eos_token_ids,
                most=trainer.max_completion_length,
            )
        return ids, None  # trl's transformers backend gives no log-probabilities either

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        trainer: Any = self
        before = trainer._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        made = trainer._buffered_inputs
        if made is before or not _exchangeable(trainer):
            return inputs
        trainer._buffered_inputs = by_group(made)
        return trainer._buffered_inputs[trainer._step % trainer.args.steps_per_generation]


def _knows(trainer: Any) -> bool:
    arguments = trainer.args
    model = trainer.accelerator.unwrap_model(trainer.model).get_base_model()
    return (
        not (trainer.use_vllm or trainer.use_transformers_continuous_batching or trainer.tools)
        and not (is_sharded(model) or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
        and trainer.repetition_penalty in (None, 1.0)
        and arguments.cache_implementation is None
        and not arguments.generation_kwargs
        and has_plain_cache(model)
        and has_fixed_positions(model)
    )


def _exchangeable(trainer: Any) -> bool:
    """Whether completions may change places: they are all of one optimizer step, and summed."""
    arguments = trainer.args
    one_step = arguments.steps_per_generation == arguments.gradient_accumulation_steps
    return one_step and trainer.num_iterations == 1 and trainer.loss_type in EXCHANGEABLE


def by_group(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same completions in as many batches, those of a prompt together, short ones first.

    Tensors of a batch have a row a completion; a number that all batches share stays.
    """
    joined = {
        name: torch.cat([batch[name] for batch in batches])
        if isinstance(value, torch.Tensor) and value.dim()
        else value
        for name, value in batches[0].items()
    }
    _, prompt = joined["prompt_ids"].unique(dim=0, return_inverse=True)
    length = joined["completion_mask"].sum(1)
    places = length.argsort(stable=True)
    places = places[prompt[places].argsort(stable=True)]
    parts = places.tensor_split(len(batches))
    return [
        {
            name: value[part] if isinstance(value, torch.Tensor) and value.dim() else value
            for name, value in joined.items()
        }
        for part in parts
    ]


def sampler(config: Any) -> Sampler:
    """Draw as `generate` does with this `GenerationConfig`, by torch's global generator."""
    steps = LogitsProcessorList()
    if config.temperature not in (None, 1.0):
        steps.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k:
        steps.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        steps.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        steps.append(MinPLogitsWarper(config.min_p))

    return lambda logits: drawn(torch.softmax(steps(None, logits), -1))


def drawn(shares: torch.Tensor) -> torch.Tensor:
    """A column of each row, with the row's shares as probabilities; none that has no share.

    One random number a row: torch's `multinomial` draws one an entry, and waits for them.

    Args:
        shares: (rows, columns), not negative.

    Raises:
        TrainingError: a row's sum is no number, or 0.
    """
    sums = shares.cumsum(1, dtype=torch.float64)
    total = sums[:, -1:]
    if not (total.isfinite() & (total > 0)).all():
        raise TrainingError(
            "the model's next-token probabilities are no numbers; lower the learning rate, or use "
            "model.dtype: float32"
        )
    point = torch.rand(total.shape, dtype=total.dtype, device=total.device) * total
    point = point.minimum(total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(sums, point, right=True)[:, 0]


def sampled(
    model: Any, prompts: Sequence[list[int]], *, sampler: Sampler, ends: Sequence[int], most: int
) -> list[list[int]]:
    """A completion of each prompt (token ids, the end included if it came), in their order.

    Args:
        model: causal language model, PEFT's or plain, for which `has_plain_cache` holds.
        prompts: token ids, at least one each; equal ones are computed once.
        ends: tokens that end a completion.
        most: tokens that a completion has at most.
    """
    device = model.device
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    place = {prompt: number for number, prompt in enumerate(distinct)}
    group = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    logits, cache, mask = _prefilled(model, distinct)
    cache = _roomy(cache, group)
    logits, mask = logits[group], mask[group]
    positions = mask.sum(1, keepdim=True)  # of the next token
    rows = list(range(len(prompts)))  # completion that each row of the batch is of
    completions: list[list[int]] = [[] for _ in prompts]
    for step in itertools.count(1):
        tokens = sampler(logits)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            completions[row].append(token)
        if step == most:
            break
        stay = staying(tokens.tolist(), ends)
        if not stay:
            break
        if stay != [*range(len(rows))]:
            index = torch.tensor(stay, device=device)
            rows = [rows[k] for k in stay]
            tokens, mask, positions = tokens[index], mask[index], positions[index]
            cache.batch_select_indices(index)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        logits = _last_logits(
            model,
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
        )
        positions = positions + 1
    return completions


def staying(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Rows that go on. One from the end takes the place of one that ended: few rows move."""
    going = [token not in ends for token in tokens]
    count = sum(going)
    movers = [row for row in range(count, len(going)) if going[row]]
    return [row if going[row] else movers.pop() for row in range(count)]


def _prefilled(
    model: Any, prompts: Sequence[tuple[int, ...]]
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """Logits after each prompt, the cache, and the mask (prompts, longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    ids, mask = ids.to(model.device), mask.to(model.device)
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = _last_logits(
        model, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache
    )
    return logits, cache, mask


def _last_logits(model: Any, **inputs: Any) -> torch.Tensor:
    """(rows, vocabulary) float32."""
    logits = model(**inputs, use_cache=True, logits_to_keep=1).logits
    last: torch.Tensor = logits[:, -1].float()
    return last


def _roomy(cache: DynamicCache, group: torch.Tensor) -> DynamicCache:
    """A cache with room, whose row n begins as row `group[n]` of `cache`."""
    roomy = DynamicCache()
    for layer in cache.layers:
        roomy.layers.append(_RoomyLayer.of(layer.keys[group], layer.values[group]))
    return roomy


class _RoomyLayer(DynamicLayer):
    """A layer's keys and values, the first part of larger tensors (rows, heads, room, width)."""

    keys: torch.Tensor
    values: torch.Tensor
    _roomy: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, keys: torch.Tensor, values: torch.Tensor) -> _RoomyLayer:
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = layer._roomy = keys, values
        return layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, _heads, new, _width = key_states.shape
        held = self.keys.shape[2]
        if held + new > self._roomy[0].shape[2]:
            more = max(new, ROOM)
            self._roomy = _with_room(self.keys, more), _with_room(self.values, more)
        views = [whole[:rows, :, : held + new] for whole in self._roomy]
        for view, states in zip(views, (key_states, value_states), strict=True):
            view[:, :, held:] = states
        self.keys, self.values = views
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep those rows; only ones that change places are copied."""
        places = torch.arange(len(indices), device=indices.device)
        moved = places[indices != places]
        for tensor in (self.keys, self.values):
            tensor[moved] = tensor[indices[moved]]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]


def _with_room(tensor: torch.Tensor, more: int) -> torch.Tensor:
    rows, heads, held, width = tensor.shape
    roomy = tensor.new_empty(rows, heads, held + more, width)
    roomy[:, :, :held] = tensor
    return roomy
