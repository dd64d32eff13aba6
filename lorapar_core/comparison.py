"""Two runs on the same problems, problem by problem.

Where both are right, or both wrong, says nothing of which is better; McNemar's test asks whether
the problems that only one of them gets right are as many one way as the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorapar_core.errors import DataError
from lorapar_core.statistics import mcnemar, paired_difference, wilson

SUFFIX = "_correct"
"""Of a predictions table's columns that say what was right, by one way to read answers."""

Table = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How often two runs were right, by one way to read their answers."""

    extraction: str
    n: int
    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def p(self) -> float:
        """Of McNemar's exact test, two-sided."""
        return mcnemar(self.only_first, self.only_second)

    @property
    def difference(self) -> tuple[float, float, float]:
        """The second's accuracy less the first's, with a 95 % interval."""
        return paired_difference(self.only_first, self.only_second, self.n)

    def to_json(self) -> dict[str, Any]:
        first, second = self.both + self.only_first, self.both + self.only_second
        difference, low, high = self.difference
        return {
            **asdict(self),
            "first": {"accuracy": first / self.n, "interval_95": list(wilson(first, self.n))},
            "second": {"accuracy": second / self.n, "interval_95": list(wilson(second, self.n))},
            "difference": difference,
            "difference_interval_95": [low, high],
            "p": self.p,
        }


def compare(first: Table, second: Table) -> list[Comparison]:
    """One comparison for every way to read answers that both tables have.

    Raises:
        DataError: the problems aren't the same, a problem has several answers, or the two were
            read in different ways.
    """
    rows = [_by_problem(table) for table in (first, second)]
    if rows[0].keys() != rows[1].keys():
        shared = len(rows[0].keys() & rows[1].keys())
        raise DataError(
            f"the runs answer {len(rows[0])} and {len(rows[1])} problems, {shared} of them the "
            "same; compare runs on the same problems"
        )
    extractions = [
        name.removesuffix(SUFFIX) for name in first if name.endswith(SUFFIX) and name in second
    ]
    if not extractions:
        raise DataError(
            "the runs' answers were read in different ways; compare two runs of one benchmark"
        )
    return [_compared(extraction, first, second, rows) for extraction in extractions]


def _by_problem(table: Table) -> dict[str, int]:
    """Problem -> the row that answers it."""
    ids = table["example_id"]
    rows = {example_id: row for row, example_id in enumerate(ids)}
    if len(rows) < len(ids):
        raise DataError(
            f"{len(ids)} answers to {len(rows)} problems: programs drawn for pass@k, which aren't "
            "paired; compare runs with samples: 1"
        )
    return rows


def _compared(
    extraction: str, first: Table, second: Table, rows: Sequence[Mapping[str, int]]
) -> Comparison:
    column = extraction + SUFFIX
    right = [
        (first[column][row], second[column][rows[1][example_id]])
        for example_id, row in rows[0].items()
    ]
    return Comparison(
        extraction=extraction,
        n=len(right),
        both=right.count((True, True)),
        only_first=right.count((True, False)),
        only_second=right.count((False, True)),
        neither=right.count((False, False)),
    )
