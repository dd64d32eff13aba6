"""From the votes on one example to its label.

The label is the majority of the votes. Abstentions don't count, or drop the example; with fewer
votes than the quorum it is dropped; with as many votes for one system as for the other the tie rule
decides, or one more teacher (the judge).

`is_certain` asks whether votes that are still out can change the label. It tries every way in which
they may come, by this very rule, so that voting may stop early with the same labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

Vote = int | None
"""1, 2, or None for an abstention."""
_BY_RULE: dict[str, int | None] = {"system1": 1, "system2": 2, "drop": None, "escalate": None}


@dataclass(frozen=True, slots=True)
class Rule:
    """As in a recipe's `voting`."""

    tie: str = "system2"
    quorum: int = 1
    abstentions: str = "ignore"


@dataclass(frozen=True, slots=True)
class Label:
    """What the votes on one example come to; `system` None is dropped."""

    system: int | None
    votes_for: int
    votes_against: int
    abstained: int
    for_the_judge: bool = False
    """The votes tie, and the rule is to ask the judge."""

    @property
    def agreement(self) -> float:
        """Share of counted votes that are for the label; of a tie, one half."""
        return self.votes_for / max(1, self.votes_for + self.votes_against)


def decide(votes: Sequence[Vote], rule: Rule, *, judge: Vote = None) -> Label:
    """The label of one example. `judge` is the judge's vote, where there is one.

    >>> decide([1, 2, 2, None], Rule()).system
    2
    """
    ones, twos, abstained = votes.count(1), votes.count(2), votes.count(None)
    counts = max(ones, twos), min(ones, twos), abstained
    dropped = ones + twos < max(1, rule.quorum) or (abstained and rule.abstentions == "drop")
    if dropped:
        return Label(None, *counts)
    if ones != twos:
        return Label(1 if ones > twos else 2, *counts)
    if rule.tie == "escalate":
        return Label(judge, *counts, for_the_judge=True)
    return Label(_BY_RULE[rule.tie], *counts)


def is_certain(votes: Sequence[Vote], out: int, rule: Rule) -> bool:
    """Whether the label is the same however the `out` votes still to come fall."""
    ends = set()
    for ones in range(out + 1):
        for twos in range(out - ones + 1):
            rest = [1] * ones + [2] * twos + [None] * (out - ones - twos)
            label = decide([*votes, *rest], rule)
            ends.add((label.system, label.for_the_judge))
    return len(ends) == 1


def needed(votes: Sequence[Vote], out: int, rule: Rule) -> int:
    """How many more votes, at the least, can make the label certain: 0 where it is."""
    return _needed(votes.count(1), votes.count(2), votes.count(None), out, rule)


@cache
def _needed(ones: int, twos: int, abstained: int, out: int, rule: Rule) -> int:
    votes: list[Vote] = [*[1] * ones, *[2] * twos, *[None] * abstained]
    for more in range(out):
        if any(is_certain([*votes, *[system] * more], out - more, rule) for system in (1, 2)):
            return more
    return out
