"""Generation with virtual tokens before the prompt, for rows of different lengths.

Rows are padded on the left. PEFT puts virtual tokens before the padding and gives the model no
positions, so that a prompt's distance to them grows with the row's padding: another model than was
trained, where nothing stood between. (Seen in peft 0.21: prompt-tuning and P-tuning answer
otherwise in a batch than alone.) Here they stand as in training, right before the prompt, and
positions count what isn't padding:

    pad pad v v v p p p        prompt-tuning, P-tuning: as embeddings
    v v v pad pad p p p        prefix-tuning: as the cache of tokens already seen, whose keys have
                               no position, so that only the prompt's positions matter
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from lorapar_core.stopping_text import StopTexts


def completions(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    config: GenerationConfig,
    *,
    watch: StopTexts | None = None,
) -> torch.Tensor:
    """What `generate` adds to each prompt: (rows, new tokens) int64.

    Args:
        model: a causal language model, with or without a PEFT adapter.
        ids: (rows, width) int64, padded on the left.
        mask: (rows, width) int64, 0 where there is padding.
        config: how it is generated.
        watch: ends rows at texts; it is told where completions begin.
    """
    if not getattr(model, "_is_prompt_learning", False):
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            **_watched_from(ids.shape[1], watch),
        )
        return torch.as_tensor(made[:, ids.shape[1] :])
    base, virtual = model.get_base_model(), model.get_prompt(len(ids))
    if isinstance(virtual, Cache):
        seen = mask.new_ones(len(ids), virtual.get_seq_length())
        made = base.generate(
            input_ids=torch.cat([seen, ids], 1),  # any tokens: the cache stands for them
            attention_mask=torch.cat([seen, mask], 1),
            past_key_values=virtual,
            generation_config=config,
            **_watched_from(begin := seen.shape[1] + ids.shape[1], watch),
        )
        return torch.as_tensor(made[:, begin:])
    embeddings, mask = _before_prompts(model.word_embeddings(ids), mask, virtual)
    made = base.generate(
        inputs_embeds=embeddings,
        attention_mask=mask,
        generation_config=config,
        **_watched_from(0, watch),  # what is embedded stands in no column
    )
    return torch.as_tensor(made)


def _watched_from(column: int, watch: StopTexts | None) -> dict[str, Any]:
    """Arguments of `generate` that have rows end at texts, where there are any."""
    if watch is None or not watch.stops:
        return {}
    watch.start = column
    return {"stopping_criteria": [watch]}


def _before_prompts(
    embeddings: torch.Tensor, mask: torch.Tensor, virtual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (rows, width, hidden) and mask with `virtual` (rows, tokens, hidden) put in where
    each row's padding ends."""
    count = virtual.shape[1]
    padding = mask.shape[1] - mask.sum(1)
    rows = torch.cat([embeddings, virtual.to(embeddings.dtype)], 1)
    columns = torch.arange(rows.shape[1], device=mask.device).expand(len(rows), -1)
    begin = padding[:, None]
    inside = (columns >= begin) & (columns < begin + count)
    order = torch.where(inside, mask.shape[1] + columns - begin, columns - count)
    order = torch.where(columns < begin, columns, order)
    placed = rows.gather(1, order[:, :, None].expand(-1, -1, rows.shape[2]))
    return placed, (columns >= begin).to(mask.dtype)
