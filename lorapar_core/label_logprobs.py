"""Log-probabilities of labels on a CPU: the head where labels stand, a common prompt once.

trl's SFT and GRPO get everything from `model(..., labels=..., fused_lm_head=True)`: log p of each
label, the entropy, whether the label came first. On a GPU trl gives its head labelled positions
only; on a CPU it gives it every position, prompts and padding included, and computes the logits
once more in the backward pass. `install` puts another forward in its place, which

- takes log p(y) = z_y − log Σ_v exp z_v, z = W h / τ, at labelled positions only, and with the
  logits at hand also d log p(y) / d h = (W_y − Σ_v p_v W_v) / τ. That is one vector a position,
  whatever loss is taken of log p, so the backward pass has no logits to compute;
- computes no padding (`row_passes`), and leaves out each row's last token, which predicts nothing;
- runs what rows have in common before their first label through the model once (GRPO's groups, a
  chat template's system turn), where no dropout is drawn. Gradients flow back through it.

Rows don't see each other and attention is causal, so results are trl's but for rounding. Learned
positions (GPT-2's) are an exception: here they count from a prompt's first token, as in generation;
trl's count the padding before it, so completions of shorter prompts get other values there. All
passes lie within one call of the model: DDP, autocast and activation checkpointing see nothing
unusual. The entropy has no gradient. trl's forward stays for other devices, and for models and
calls that this one doesn't know (`_knows`, `_knows_call`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput

from lorapar_core.batches import batches, parts
from lorapar_core.gradients import IGNORED
from lorapar_core.row_passes import packed, packs, padded, pads, prefilled
from lorapar_core.sharding import is_sharded

PASS_TOKENS = 2048
"""Tokens a pass: with fewer a CPU multiplies slower, with more a pass takes more memory."""
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
    if model.device.type != "cpu" or not _knows(model) or not pads(model):
        return
    plain, may_pack = model.forward, packs(model)  # trl's

    @functools.wraps(plain)  # `generate` reads its signature
    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if fused_lm_head and not args and _knows_call(inputs):
            rows = Rows.of(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
            if rows is not None:
                pack = may_pack and not model.is_activation_checkpointing
                return _outputs(model, rows, inputs["labels"], temperature, pack=pack)
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
        and not is_sharded(model)
        and has_fixed_positions(model)
    )


def _knows_call(inputs: dict[str, Any]) -> bool:
    """Whether there are ids, mask and labels, and nothing else to heed."""
    given = {name for name, value in inputs.items() if value is not None and value is not False}
    return given == {"input_ids", "attention_mask", "labels"}


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch without its padding: each row's inputs, which end before its last label."""

    tokens: list[list[int]]
    begins: list[int]
    """Column, in the padded batch, of each row's first token."""
    prompts: list[int]
    """Tokens of each before the one that predicts its first label."""
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
        spans = zip(ids.tolist(), starts.tolist(), ends.tolist(), strict=True)
        return cls(
            tokens=[row[start:end] for row, start, end in spans],
            begins=starts.tolist(),
            prompts=(firsts - starts - 1).tolist(),
            labels=torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1),
        )

    def sharing(self) -> list[tuple[int, list[int]]]:
        """Groups of rows, and how many tokens those of each begin with in common.

        Rows with the same prompt are a group; those whose prompt is like no other's are one more.
        """
        same: dict[tuple[int, ...], list[int]] = {}
        for row, (tokens, length) in enumerate(zip(self.tokens, self.prompts, strict=True)):
            same.setdefault(tuple(tokens[:length]), []).append(row)
        groups = [(len(prompt), rows) for prompt, rows in same.items() if len(rows) > 1]
        alone = [rows[0] for rows in same.values() if len(rows) == 1]
        if alone:
            groups.append((self._common(alone), alone))
        return groups

    def _common(self, some: list[int]) -> int:
        """How many tokens their prompts begin with in common; none of one by itself."""
        columns = zip(*(self.tokens[row][: self.prompts[row]] for row in some), strict=False)
        alike = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
        return sum(1 for _ in alike) if len(some) > 1 else 0


def _outputs(
    model: Any, rows: Rows, labels: torch.Tensor, temperature: float, *, pack: bool
) -> Any:
    hidden, targets, places = _hidden_at_labels(model, rows, pack=pack)
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
    model: Any, rows: Rows, *, pack: bool
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Hidden states (labels, width), the labels (labels,), and (row, column) of each."""
    states, places = [], []
    for some, skipped, hidden in _passes(model, rows, pack=pack):
        spans = [(row, rows.begins[row] + skipped, len(rows.tokens[row]) - skipped) for row in some]
        row = torch.cat([torch.full((length,), row) for row, _, length in spans])
        column = torch.cat([torch.arange(begin, begin + length) for _, begin, length in spans])
        labelled = rows.labels[row, column].ne(IGNORED)
        states.append(hidden[labelled])
        places.append(torch.stack([row[labelled], column[labelled]]))
    row, column = torch.cat(places, 1)
    return torch.cat(states), rows.labels[row, column], (row, column)


def _passes(model: Any, rows: Rows, *, pack: bool) -> Iterator[tuple[list[int], int, torch.Tensor]]:
    """Rows, how many of their first tokens are left out, and hidden states (tokens, width) of the
    others, in turn."""
    lengths = [len(tokens) for tokens in rows.tokens]
    if not pack:
        for some in batches(lengths, PASS_TOKENS):
            yield some, 0, padded(model, [rows.tokens[row] for row in some])
        return
    everyone = [(0, [*range(len(lengths))])]
    for common, group in rows.sharing() if shares(model) else everyone:
        after = prefilled(model, rows.tokens[group[0]][:common]) if common else None
        for some in parts([lengths[row] - common for row in group], PASS_TOKENS):
            chosen = [group[i] for i in some]
            yield chosen, common, packed(model, [rows.tokens[r][common:] for r in chosen], after)


def shares(model: Any) -> bool:
    """Whether rows may share a pass of what they begin with: dropout is drawn for none."""
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
