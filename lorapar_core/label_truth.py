"""How often teachers and labels are wrong, where the true system of every example is known.

It is of the sources that `true_system` names; elsewhere nothing here is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lorapar_core.agreement import error_correlation
from lorapar_core.rounds import Votes
from lorapar_core.trust import ballots

DIGITS = 6
Truth = Mapping[str, int]
"""Example id -> its true system, 1 or 2."""


def error_rates(labels: Votes, truth: Truth) -> dict[str, Any]:
    """Share of labels (or votes) that are wrong: of all, and of each system's examples.

    An abstention, no label, and what `truth` doesn't know are left out; a share of nothing is None.
    """
    given = [(truth[i], system) for i, system in labels.items() if system and i in truth]
    shares: dict[str, Any] = {"examples": len(given)}
    for name, systems in (("all", (1, 2)), ("system1", (1,)), ("system2", (2,))):
        wrong = [system != true for true, system in given if true in systems]
        shares[name] = round(sum(wrong) / len(wrong), DIGITS) if wrong else None
    return shares


def mean_rates(rates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of several `error_rates`, as of one strategy with several seeds."""
    mean: dict[str, Any] = {"examples": min(each["examples"] for each in rates)}
    for name in ("all", "system1", "system2"):
        known = [each[name] for each in rates if each[name] is not None]
        mean[name] = round(sum(known) / len(known), DIGITS) if known else None
    return mean


def teachers_errors(votes: Mapping[str, Votes], truth: Truth) -> dict[str, Any]:
    """Each teacher's error rates, and the mean correlation of two teachers' errors (None where it
    isn't defined, as for one teacher)."""
    ids = sorted(truth)
    true = np.array([truth[i] for i in ids], dtype=np.int8)
    found = error_correlation(ballots(ids, votes), true)
    return {
        "teachers": {name: error_rates(given, truth) for name, given in votes.items()},
        "error_correlation": None if found is None else round(found, DIGITS),
    }
