"""Curtailed voting: whom to ask next about which examples.

Each example has its own order of teachers, drawn from its id. A round asks, about each example that
isn't certain yet, as many of the next teachers as can make it certain at the least; so with five
teachers three are asked, then a fourth where they differ, then the fifth. The labels are those of
full voting (see `rule`). A random tenth, drawn from the ids too, is asked of everybody: what the
rest was asked depends on how it was answered, and says nothing fair about how teachers agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from lorapar_core.rule import Rule, Vote, decide, needed

Votes = Mapping[str, Vote]
"""Example id -> one teacher's vote."""
AUDITED = 10
"""One example in so many is voted on by all."""


def order(example_id: str, teachers: Iterable[str]) -> list[str]:
    """The teachers in this example's order, whatever order they come in."""
    return sorted(teachers, key=lambda name: _drawn("order", example_id, name))


def is_audited(example_id: str) -> bool:
    """Whether everybody votes on it."""
    return int.from_bytes(_drawn("audit", example_id)[:8]) % AUDITED == 0


def next_round(
    ids: Iterable[str], votes: Mapping[str, Votes], rule: Rule, *, curtailed: bool = True
) -> dict[str, list[str]]:
    """Teacher -> the examples to ask it about now; empty once every label is certain.

    `votes` has an entry, perhaps empty, for each teacher of the panel.
    """
    asks: dict[str, list[str]] = {}
    for example_id in ids:
        turns = order(example_id, votes) if curtailed else list(votes)
        known = [votes[name][example_id] for name in turns if example_id in votes[name]]
        out = [name for name in turns if example_id not in votes[name]]
        everybody = not curtailed or is_audited(example_id)
        more = len(out) if everybody else needed(known, len(out), rule)
        for name in out[:more]:
            asks.setdefault(name, []).append(example_id)
    return asks


def for_the_judge(
    ids: Iterable[str], votes: Mapping[str, Votes], rule: Rule, *, judged: Votes
) -> list[str]:
    """The examples whose votes tie and that the judge has not voted on yet."""
    return [
        example_id
        for example_id in ids
        if example_id not in judged and decide(on_example(votes, example_id), rule).for_the_judge
    ]


def on_example(votes: Mapping[str, Votes], example_id: str) -> Sequence[Vote]:
    """The votes of all who were asked about it."""
    return [given[example_id] for given in votes.values() if example_id in given]


def _drawn(*parts: str) -> bytes:
    return hashlib.sha256(":".join(parts).encode()).digest()
