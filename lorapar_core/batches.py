"""Grouping rows of different lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions grouped by length, at most `batch_tokens` padded tokens a batch.

    A pure function of the lengths: the same rows give the same batches anywhere.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and lengths[i] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def parts(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Positions in their order, at most `tokens` a part."""
    part, taken = list[int](), 0
    for i, length in enumerate(lengths):
        if part and taken + length > tokens:
            yield part
            part, taken = [], 0
        part.append(i)
        taken += length
    if part:
        yield part
