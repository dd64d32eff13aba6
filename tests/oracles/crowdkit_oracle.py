"""What crowd-kit 1.4.2 (Apache-2.0) makes of seeded votes: an oracle for ours.

crowd-kit is in no lock, since it brings transformers, nltk and scikit-learn. Its results are stored
in `crowdkit_oracle.json`. To write them again:

    python3 -m venv /tmp/crowd
    /tmp/crowd/bin/pip install --no-deps crowd-kit==1.4.2 nltk==3.9.2 regex click
    /tmp/crowd/bin/pip install numpy pandas attrs tqdm scipy scikit-learn
    /tmp/crowd/bin/python tests/oracles/crowdkit_oracle.py

crowd-kit stops EM when an iteration gains less than 1e-5 nats a vote, far from where it comes to
rest. Here it runs `ITERATIONS` whatever it gains, after which ours has gained nothing for long.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED = Path(__file__).with_suffix(".json")
VERSION = "1.4.2"
ITERATIONS = 200
SMOOTHING = 1e-10
"""What crowd-kit raises a smaller count to; as `smoothing`, ours adds it to every count."""
SHOWN = 60
"""Posteriors are stored of the first so many examples."""

CASES: dict[str, dict[str, Any]] = {
    "equal teachers": {"seed": 1, "accuracies": [0.85] * 5, "missing": 0.0},
    "mixed teachers": {"seed": 2, "accuracies": [0.92, 0.85, 0.8, 0.7, 0.25], "missing": 0.0},
    "missing votes": {"seed": 3, "accuracies": [0.92, 0.88, 0.84, 0.8, 0.76], "missing": 0.25},
}


def seeded_votes(
    *, seed: int, accuracies: list[float], missing: float, examples: int = 400
) -> NDArray[np.int8]:
    """Ballots (examples, teachers), int8: System 2 is the truth of 40 %.

    Drawn from Philox's raw numbers, which no numpy version changes. The first teacher votes on
    everything, since crowd-kit knows of no example without a vote.
    """
    teachers = len(accuracies)
    raw = np.random.Philox(key=seed).random_raw(examples * (1 + 2 * teachers))
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    truth = np.where(uniform[:examples] < 0.4, 2, 1)
    right, there = uniform[examples:].reshape(2, examples, teachers)
    votes = np.where(right < accuracies, truth[:, None], 3 - truth[:, None])
    votes[:, 1:][there[:, 1:] < missing] = 0
    return votes.astype(np.int8)


def available() -> bool:
    """Whether crowd-kit and what it needs here can be imported."""
    needed = ("crowdkit", "nltk", "pandas", "scipy", "attr")
    return all(importlib.util.find_spec(name) is not None for name in needed)


def recompute() -> dict[str, Any]:
    """Every case, through crowd-kit.

    Raises:
        ImportError: it is not installed.
    """
    return {name: _solve(seeded_votes(**case)) for name, case in CASES.items()}


def _solve(ballots: NDArray[np.int8]) -> dict[str, Any]:
    import pandas as pd

    dawid_skene, alpha_krippendorff = _crowdkit()
    task, worker = np.nonzero(ballots)
    votes = pd.DataFrame({"task": task, "worker": worker, "label": ballots[task, worker]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit writes for pandas 1
        model = dawid_skene(n_iter=ITERATIONS, tol=-np.inf).fit(votes)
        alpha = alpha_krippendorff(votes)
    posterior = model.probas_.sort_index()[2].to_numpy()
    confusions = [
        [[float(model.errors_.loc[(t, vote), true]) for vote in (1, 2)] for true in (1, 2)]
        for t in range(ballots.shape[1])
    ]
    return {
        "alpha": round(float(alpha), 12),
        "confusions": np.round(confusions, 12).tolist(),
        "labels": "".join(map(str, np.where(posterior > 0.5, 2, 1))),
        "posterior": [round(float(p), 12) for p in posterior[:SHOWN]],
        "prior": round(float(model.priors_[2]), 12),
    }


def _crowdkit() -> tuple[Any, Any]:
    """DawidSkene and alpha_krippendorff, without the models of texts and images beside them.

    `crowdkit.aggregation` imports all of its parts, transformers among them. An empty module with
    its path stands in while the two are imported, so that only the files they need are read.
    """
    root = importlib.import_module("crowdkit").__path__[0]
    package = types.ModuleType("crowdkit.aggregation")
    package.__path__ = [f"{root}/aggregation"]
    before = sys.modules.get("crowdkit.aggregation")
    sys.modules["crowdkit.aggregation"] = package
    try:
        model = importlib.import_module("crowdkit.aggregation.classification.dawid_skene")
        votes = importlib.import_module("crowdkit.aggregation.classification.majority_vote")
        package.MajorityVote = votes.MajorityVote  # type: ignore[attr-defined]
        metrics = importlib.import_module("crowdkit.metrics.data")
    finally:
        if before is None:
            del sys.modules["crowdkit.aggregation"]
        else:
            sys.modules["crowdkit.aggregation"] = before
    return model.DawidSkene, metrics.alpha_krippendorff


if __name__ == "__main__":
    document = {"crowd-kit": VERSION, "cases": recompute()}
    STORED.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
