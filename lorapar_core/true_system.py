"""The true system of an example, where it is known.

Problems that the project writes are worked a line a step and end in "#### N": one step is System
1's, more are System 2's. Elsewhere nobody knows.
"""

from __future__ import annotations

from lorapar_core.config import SOLVED, System
from lorapar_core.errors import DataError

SOURCES = frozenset(SOLVED)
"""Data sources whose answers tell the truth."""


def true_system(answer: str) -> System:
    """By the steps of the worked answer.

    >>> int(true_system("5 + 3 = 8\\n8 * 2 = 16\\n#### 16"))
    2

    Raises:
        DataError: no worked line stands before a last "####".
    """
    worked, mark, _ = answer.rpartition("####")
    steps = [line for line in worked.splitlines() if line.strip()]
    if not mark or not steps:
        raise DataError(
            f"answer {answer[:60]!r} has no worked line before ####; the true system is known of "
            f"sources {', '.join(sorted(SOURCES))} only; take one of them, or ask other teachers"
        )
    return System.ONE if len(steps) == 1 else System.TWO
