"""Log-probabilities of labels on a CPU: the head where labels stand, a common prompt once.

trl's SFT and GRPO get everything from `model(..., labels=..., fused_lm_head=True)`: log p of each
label, the entropy, whether the label came first. On a GPU trl gives its head labelled positions
only; on a CPU it gives it every position, prompts and padding included, and computes the logits
once more in the backward pass. `install` puts another forward in its place, which

- takes log p(y) = z_y − log Σ_v exp z_v, z = W h / τ, at labelled positions only, and with the
  logits at hand also d log p(y) / d h = (W_y − Σ_v p_v W_v) / τ. That is one vector a position,
  whatever loss is taken of log p, so the backward pass has no logits to compute;
- groups rows by length, so that little padding is computed (`PASS_TOKENS`), and leaves out each
  row's last token, which predicts nothing;
- runs what rows have in common before their first label through the model once, and expands its
  keys and values to those rows (GRPO's groups). Gradients flow back through them.

Rows don't see each other and attention is causal, so results are trl's but for rounding. Learned
positions (GPT-2's) are an exception: here they count from a prompt's first token, as in generation;
trl's count the padding before it, so completions of shorter prompts get other values there. All
passes lie within one call of the model: DDP, autocast and activation checkpointing see nothing
unusual. The entropy has no gradient. trl's forward stays for other devices, and for models and
calls that this one doesn't know (`_knows`, `_knows_call`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from trl.trainer.utils import FusedCausalLMOutput

from lorapar_core.batches import batches
from lorapar_core.gradients import IGNORED

PASS_TOKENS = 768
"""Padded tokens a pass: with fewer a CPU multiplies slower, with more there is more padding."""
TILE = 1 << 23
"""Logits at a time: 32 MiB."""
SCALES = (
    *("final_logit_softcapping", "logit_scale", "output_multiplier"),
    *("lm_head_multiplier", "logits_scaling", "logits_soft_cap", "output_logit_soft_cap"),
)
"""What a model's configuration calls that which it does to logits after the head."""
OTHER_HEADS = ("classifier", "summary")
"""What the names of dropout before heads begin with that a language model doesn't have."""


class LabelLogProbs:
    """Mixin for trl's SFT or GRPO trainer: `install` on the model, with the trainer's temperature.

    An entropy bonus needs the entropy's gradient, and keeps trl's forward.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        trainer: Any = self
        if not getattr(trainer, "_entropy_bonus_enabled", False):
            base = trainer.accelerator.unwrap_model(trainer.model).get_base_model()
            install(base, temperature=getattr(trainer, "temperature", 1.0))


def install(model: Any, *, temperature: float) -> None:
    """Give `model`, which has trl's fused head, the forward described above, where it can be.

    Args:
        model: causal language model, without its PEFT wrapper.
        temperature: τ, as trl's head has it.
    """
    if not _knows(model):
        return
    plain = model.forward  # trl's

    @functools.wraps(plain)  # `generate` reads its signature
    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if fused_lm_head and not args and _knows_call(model, inputs):
            rows = Rows.of(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
            if rows is not None:
                return _outputs(model, rows, inputs["labels"], temperature)
        return plain(*args, fused_lm_head=fused_lm_head, **inputs)

    model.forward = forward


def _knows(model: Any) -> bool:
    """Whether logits are the frozen head's, unchanged, and tokens see earlier ones only."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    return (
        type(head) is torch.nn.Linear
        and not any(weight.requires_grad for weight in head.parameters())
        and all(getattr(config, name, None) in (None, 1) for name in SCALES)
        and not getattr(config, "output_router_logits", False)
        and getattr(config, "is_causal", True)
        and not config.is_encoder_decoder
        and has_fixed_positions(model)
    )


def _knows_call(model: Any, inputs: dict[str, Any]) -> bool:
    """Whether there are ids, mask and labels on a CPU, and nothing else to heed."""
    given = {name for name, value in inputs.items() if value is not None and value is not False}
    return given == {"input_ids", "attention_mask", "labels"} and model.device.type == "cpu"


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch without its padding.

    Row n's inputs end before its last label, which predicts nothing. Its labels begin after
    `prefixes[n]` and the one token that predicts the first label.
    """

    prefixes: list[list[int]]
    suffixes: list[list[int]]
    begins: list[int]
    """Column, in the padded batch, of the first token of each suffix."""
    labels: torch.Tensor
    """(rows, columns): the label that each column's token predicts, else -100."""

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> Rows | None:
        """Of ids, mask and labels, each (rows, columns) int64, as trl gives them.

        None if a row has no label, or padding within it.
        """
        columns = torch.arange(ids.shape[1])
        kept, labelled = mask.bool(), labels.ne(IGNORED)
        labelled[:, 0] = False
        if not labelled.any(1).all():
            return None
        starts, firsts = kept.int().argmax(1), labelled.int().argmax(1)
        ends = ids.shape[1] - labelled.flip(1).int().argmax(1) - 1  # the last label's column
        inside = (columns >= starts[:, None]) & (columns <= ends[:, None])
        if not (kept | ~inside).all() or (firsts <= starts).any():
            return None
        tokens = ids.tolist()
        spans = list(zip(starts.tolist(), firsts.tolist(), ends.tolist(), strict=True))
        return cls(
            prefixes=[row[a : b - 1] for row, (a, b, _) in zip(tokens, spans, strict=True)],
            suffixes=[row[b - 1 : c] for row, (_, b, c) in zip(tokens, spans, strict=True)],
            begins=[b - 1 for _, b, _ in spans],
            labels=torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1),
        )

    def sharing(self) -> tuple[list[list[int]], list[int]]:
        """Groups of rows with the same prefix, of two and more; and the rows that share none."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prefix in enumerate(self.prefixes):
            groups.setdefault(tuple(prefix), []).append(row)
        shared = [rows for prefix, rows in groups.items() if prefix and len(rows) > 1]
        taken = {row for rows in shared for row in rows}
        return shared, [row for row in range(len(self.prefixes)) if row not in taken]


def _outputs(model: Any, rows: Rows, labels: torch.Tensor, temperature: float) -> Any:
    hidden, targets, places = _hidden_at_labels(model, rows)
    head = model.get_output_embeddings()
    each = _LogProbs.apply(hidden, head.weight, head.bias, targets, temperature)
    mask = labels[:, 1:].ne(IGNORED)
    logprobs, entropy, top1 = (x.new_zeros(mask.shape).index_put(places, x) for x in each)
    return FusedCausalLMOutput(
        loss=-logprobs.sum() / mask.sum(),
        log_probs=logprobs,
        entropy=entropy,
        is_top1=top1,
        label_mask=mask,
    )


def _hidden_at_labels(
    model: Any, rows: Rows
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Hidden states (labels, width), the labels (labels,), and (row, column) of each."""
    states, places = [], []
    for some, begins, hidden in _passes(model, rows):
        row, step = torch.tensor(some)[:, None], torch.arange(hidden.shape[1])
        column = torch.tensor(begins)[:, None] + step
        within = column < rows.labels.shape[1]
        labelled = within & rows.labels[row, column.clamp(max=rows.labels.shape[1] - 1)].ne(IGNORED)
        states.append(hidden[labelled])
        places.append(torch.stack([row.expand_as(column)[labelled], column[labelled]]))
    row, column = torch.cat(places, 1)
    return torch.cat(states), rows.labels[row, column], (row, column)


def _passes(model: Any, rows: Rows) -> Iterator[tuple[list[int], list[int], torch.Tensor]]:
    """Rows, the column each begins at, and their hidden states (rows, tokens, width), in turn."""
    shared, alone = rows.sharing() if _expands(model) else ([], [*range(len(rows.prefixes))])
    for group in shared:
        keys_values = _prefilled(model, rows.prefixes[group[0]])
        for batch in batches([len(rows.suffixes[row]) for row in group], PASS_TOKENS):
            some = [group[i] for i in batch]
            cache = expanded(model.config, keys_values, len(some))
            ids = padded([rows.suffixes[row] for row in some])
            hidden = _body(model, ids, past_key_values=cache, use_cache=True)
            yield some, [rows.begins[row] for row in some], hidden
    whole = {row: rows.prefixes[row] + rows.suffixes[row] for row in alone}
    for batch in batches([len(whole[row]) for row in alone], PASS_TOKENS):
        some = [alone[i] for i in batch]
        hidden = _body(model, padded([whole[row] for row in some]), use_cache=False)
        yield some, [rows.begins[row] - len(rows.prefixes[row]) for row in some], hidden


def _expands(model: Any) -> bool:
    """Whether rows can share a prefix: the cache would be heeded, and dropout is drawn for none."""
    if model.is_activation_checkpointing or not has_plain_cache(model):
        return False
    modules = (m.p for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.training)
    return not any(modules) and not (model.training and _configures_dropout(model))


def _configures_dropout(model: Any) -> bool:
    """Whether a rate is set that functions take, which no module tells (OPT's, Llama's)."""
    fields = model.config.get_text_config().to_dict().items()
    return any(
        "drop" in name and not name.startswith(OTHER_HEADS)
        for name, value in fields
        if isinstance(value, float) and value
    )


def has_fixed_positions(model: Any) -> bool:
    """Whether a token's rotation is the same however long the rows are beside it."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [part for part in rope.values() if isinstance(part, dict)]  # one a kind of layer
    return all(part.get("rope_type") not in ("dynamic", "longrope") for part in (rope, *kinds))


def has_plain_cache(model: Any) -> bool:
    """Whether all that the model keeps of earlier tokens is every layer's keys and values."""
    takes = inspect.signature(model.base_model.forward).parameters
    layers = DynamicCache(config=model.config).layers
    return (
        "past_key_values" in takes
        and not model._is_stateful
        and bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
    )


def _prefilled(model: Any, prefix: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, (1, heads, tokens, width)."""
    cache = DynamicCache(config=model.config)
    _body(model, torch.tensor([prefix]), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def expanded(
    config: Any, keys_values: Sequence[tuple[torch.Tensor, torch.Tensor]], count: int
) -> DynamicCache:
    """A cache of `count` rows that all begin with the same keys and values."""
    cache = DynamicCache(config=config)
    for number, (keys, values) in enumerate(keys_values):
        shape = (count, -1, -1, -1)
        cache.update(keys.expand(shape), values.expand(shape), number)
    return cache


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """(rows, longest) int64, padded on the right, which no token sees."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def _body(model: Any, ids: torch.Tensor, **more: Any) -> torch.Tensor:
    """Last hidden states (rows, tokens, width)."""
    hidden: torch.Tensor = model.base_model(input_ids=ids, **more).last_hidden_state
    return hidden


class _LogProbs(torch.autograd.Function):
    """Log-probability, entropy (nats, no gradient) and whether the label is the likeliest.

    Takes hidden (n, width), weight (vocabulary, width), bias or None, labels (n,), temperature;
    gives three tensors (n,): float32, float32, bool.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        weight = weight.to(dtype or hidden.dtype)
        slopes = torch.empty(hidden.shape) if ctx.needs_input_grad[0] else None
        parts = []
        size = max(1, TILE // len(weight))
        for start in range(0, len(hidden), size):
            some, wanted = hidden[start : start + size], labels[start : start + size, None]
            logits = torch.nn.functional.linear(
                some.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype)
            )
            logits = logits.float().div_(temperature)
            shares = torch.softmax(logits, -1)
            top, first = logits.max(-1, keepdim=True)
            total = top - shares.gather(1, first).log()  # log Σ exp z
            mean = torch.linalg.vecdot(shares, logits)[:, None]
            parts.append((logits.gather(1, wanted) - total, total - mean, first == wanted))
            if slopes is not None:
                shares.scatter_add_(1, wanted, shares.new_full(wanted.shape, -1.0))
                slopes[start : start + size] = shares.to(weight.dtype) @ weight
        if slopes is not None:
            slopes /= -temperature
        ctx.save_for_backward(slopes)
        ctx.dtype = hidden.dtype
        logprobs, entropy, top1 = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(entropy, top1)
        return logprobs, entropy, top1

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * slope[:, None]).to(ctx.dtype), None, None, None, None
