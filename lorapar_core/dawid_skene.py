"""Votes weighed by how reliable each teacher looks, after Dawid & Skene (1979).

An example is of System 2 with probability `prior`; teacher t, given the true system, votes for
System 1 or 2 by its confusion matrix, independently of the other teachers. EM fits both:

    E   P(system | votes)  ∝  prior(system) * product over t of confusion_t(system, vote_t)
    M   prior, confusion   ∝  smoothing + the votes, counted with those probabilities

Departures from the paper: two classes only; a missing vote has no factor; and M adds `smoothing`
to every count, so that what climbs from step to step is the likelihood times a Dirichlet prior.
Without it a teacher that was never seen to err has an error probability of 0, and one vote of it
outweighs any number of others. The default of 1 is Laplace's rule: as if each teacher had been
right once and wrong once on each system. It matters for teachers with tens of votes, and is lost
among thousands.

It starts at each example's share of votes for System 2, and nothing is drawn. So the class called
System 2 is the one that the majority calls so, and two runs can't differ in which class is which.
The climb may still part from the majority on single examples, which is its use, and where votes
are hardly better than coin flips on most. If most teachers are worse than chance the majority is
wrong, and so is this: votes alone don't tell.

Votes that agree for another reason than being right break the model. What all teachers get wrong
together stays wrong, here as by majority. Two of five that copy each other prove each other right:
each is found to be nearly perfect and the labels become theirs, where the majority would still
outvote them (`agreement.pairs` shows such a pair by its phi). Two teachers alone don't determine
the model: the start and the smoothing then decide between solutions that fit the votes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorapar_core.agreement import Ballots, check_ballots

Floats = NDArray[np.float64]
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class DawidSkene:
    """What EM came to."""

    posterior: Floats
    """P(System 2 | votes) of each example, (examples,); without a vote that is the prior's."""
    confusions: Floats
    """(teachers, 2, 2): [t, i, j] is P(t votes for System j+1 | the true one is i+1)."""
    prior: Floats
    """(2,): share of each system."""
    iterations: int
    converged: bool
    """Whether the last iteration gained less than the tolerance."""
    objective: float
    """Mean over the examples with votes of what EM maximizes, in nats."""


def dawid_skene(
    ballots: Ballots, *, smoothing: float = 1.0, tolerance: float = 1e-9, max_iterations: int = 1000
) -> DawidSkene:
    """Fits the model to `ballots`: integers of shape (examples, teachers), 1, 2, or 0 for no vote.

    `smoothing`: votes added to every count of M. `tolerance`: nats an example; EM stops after the
    iteration that gains less. The same ballots give the same bytes, in any order of the examples:
    equal rows are counted once, and sums go over the sorted distinct ones.

    Raises:
        ValueError: see `agreement.check_ballots`; or a smoothing that is not above 0, or no
            iteration.
    """
    check_ballots(ballots)
    if not 0 < smoothing < np.inf or max_iterations < 1:
        raise ValueError(
            f"smoothing {smoothing} and {max_iterations} iterations; expected some above 0 of both"
        )
    voted = ballots.any(axis=1)
    rows, place, times = np.unique(ballots[voted], axis=0, return_inverse=True, return_counts=True)
    cast = np.stack([rows == 1, rows == 2], axis=2).astype(np.float64)  # (rows, teachers, vote)
    two = (cast[:, :, 1].sum(axis=1) / cast.sum(axis=(1, 2)))[:, None]  # the majority's shares
    belief = np.concatenate([1 - two, two], axis=1)  # (rows, system)
    objective, iteration = -np.inf, 0
    while True:
        iteration += 1
        prior, confusions = _maximize(cast, belief, times, smoothing)
        belief, likelihoods = _expect(cast, prior, confusions)
        penalty = smoothing * (np.log(prior).sum() + np.log(confusions).sum())
        before, objective = objective, float((times * likelihoods).sum() + penalty)
        converged = objective - before < tolerance * max(1, times.sum())
        if converged or iteration >= max_iterations:
            break
    posterior = np.full(len(ballots), prior[1])
    posterior[voted] = belief[place.ravel(), 1]
    mean = objective / max(1, int(times.sum()))
    return DawidSkene(posterior, confusions, prior, iteration, bool(converged), mean)


def likelier(posterior: float) -> int | None:
    """The likelier system; None where both are as likely, but for rounding."""
    if abs(posterior - 0.5) < ROUNDING:
        return None
    return 2 if posterior > 0.5 else 1


def _maximize(
    cast: Floats, belief: Floats, times: NDArray[np.int64], smoothing: float
) -> tuple[Floats, Floats]:
    """The prior (2,) and confusions (teachers, 2, 2) that fit `belief` (rows, 2) best."""
    weights = belief * times[:, None]
    systems = weights.sum(axis=0) + smoothing
    # Not a matrix product: BLAS adds in an order that hangs on its threads.
    counts = np.einsum("ri,rtj->tij", weights, cast) + smoothing
    return systems / systems.sum(), counts / counts.sum(axis=2, keepdims=True)


def _expect(cast: Floats, prior: Floats, confusions: Floats) -> tuple[Floats, Floats]:
    """The belief of every row (rows, 2), and its log-likelihood (rows,), nats."""
    joint = np.einsum("rtj,tij->ri", cast, np.log(confusions)) + np.log(prior)
    likelihoods = np.logaddexp(joint[:, 0], joint[:, 1])
    return np.exp(joint - likelihoods[:, None]), likelihoods
