"""One system's elements by importance: sorted once, cut at any theta.

Only the values are sorted. Which elements stand before a place of the ranking follows from the
value at that place: all that are larger, and of the equal ones the first by position, as many as
are missing. So no permutation is made or kept: 4 bytes an element, and no random access.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]
_BLOCK = 1 << 20


class Ranking:
    """The elements of `scores` (float32) in descending order, equal ones by position.

    Raises:
        ValueError: one is negative or not finite, or none is above 0.
    """

    def __init__(self, scores: Scores) -> None:
        least, most = (scores.min(), scores.max()) if len(scores) else (0.0, 0.0)
        if not (least >= 0 and 0 < most < np.inf):
            raise ValueError(
                f"{len(scores)} importances from {least} to {most} can't be ranked; expected "
                "finite ones, none negative and some above 0"
            )
        self._scores = scores
        self._descending = np.sort(scores)[::-1]
        blocks = -(-len(scores) // _BLOCK)
        self._sums = np.zeros(blocks + 1)
        """The running sum before each block, and the total."""
        for block in range(blocks):
            self._sums[block + 1] = self._running_sums(block)[-1]

    def kept(self, theta: float) -> int:
        """How many first elements have a running sum before them below theta × the total.

        Sums are float64, one addition an element. theta = 1 keeps every element, zeros included.
        """
        if theta == 1:
            return len(self._scores)
        bound = theta * self._sums[-1]
        # The last element kept is in the last block that has a running sum below it.
        block = int(np.searchsorted(self._sums[:-1], bound, side="left")) - 1
        sums = self._running_sums(block)
        return block * _BLOCK + 1 + int(np.searchsorted(sums[1:-1], bound, side="left"))

    def score(self, place: int) -> float:
        """Importance of the element at this place of the ranking, from 0."""
        return float(self._descending[place])

    def first(self, count: int) -> Mask:
        """Which elements are among the first `count`."""
        if count == 0:
            return np.zeros(len(self._scores), np.bool_)
        return _first(self._scores, count, self._descending[count - 1])

    def first_of(self, members: Mask, count: int) -> Mask:
        """Which elements are among the first `count` of those that `members` marks."""
        chosen = np.zeros(len(self._scores), np.bool_)
        if count:
            scores = self._scores[members]
            place = len(scores) - count  # ascending
            chosen[members] = _first(scores, count, np.partition(scores, place)[place])
        return chosen

    def _running_sums(self, block: int) -> NDArray[np.float64]:
        """The running sum before the block, and after each of its elements."""
        terms = self._descending[block * _BLOCK : (block + 1) * _BLOCK]
        return np.add.accumulate(np.concatenate([self._sums[block : block + 1], terms]))


def _first(scores: Scores, count: int, cut: np.float32) -> Mask:
    """Which are the `count` largest, where `cut` is the least of them."""
    chosen: Mask = scores > cut
    equal = np.flatnonzero(scores == cut)
    chosen[equal[: count - np.count_nonzero(chosen)]] = True
    return chosen
