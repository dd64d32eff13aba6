"""`lorapar compare`: two evaluations in the store, problem by problem."""

from __future__ import annotations

import json
from typing import Any

from artifacts import Ref, Store, StoreError
from flows.inspect_store import record_of
from flows.summary import table
from lorapar_core.comparison import Comparison
from lorapar_core.comparison import compare as paired
from lorapar_core.parquet import read_table

PREDICTIONS = "predictions.parquet"


def compare(store: Store, digests: list[str], *, as_json: bool) -> int:
    """Compare two evaluations, each by the digest (or its beginning) of its predictions or record.

    Raises:
        StoreError: no such evaluation, or several.
        DataError: they can't be compared.
    """
    refs = [_predictions(store, digest) for digest in digests]
    first, second = (read_table(store.path(ref)) for ref in refs)
    found = paired(first, second)
    if as_json:
        told = [comparison.to_json() for comparison in found]
        print(json.dumps({"predictions": [ref.digest for ref in refs], "comparisons": told}))
        return 0
    print(table(("", "first", "second"), [_accuracies(one.to_json()) for one in found]))
    header = ("", "n", "both", "only first", "only second", "neither", "second less first", "p")
    print(f"\n{table(header, [_row(one) for one in found])}")
    return 0


def _predictions(store: Store, digest: str) -> Ref:
    record = record_of(store, digest)
    if record is None:
        role, ref, key = store.resolve(digest)
        if role == PREDICTIONS:
            return ref
        record = store.lookup(key)
    ref_of = record.outputs.get(PREDICTIONS) if record else None
    if ref_of is None:
        raise StoreError(
            f"{digest} belongs to no evaluation; give the digest of a predictions.parquet, or its "
            "record's (`lorapar artifacts ls` lists them)"
        )
    return ref_of


def _accuracies(told: dict[str, Any]) -> tuple[str, ...]:
    return (told["extraction"], *(_share(told[which]) for which in ("first", "second")))


def _share(figures: dict[str, Any]) -> str:
    low, high = figures["interval_95"]
    return f"{100 * figures['accuracy']:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _row(found: Comparison) -> tuple[str, ...]:
    points, low, high = (100 * value for value in found.difference)
    counts = (found.n, found.both, found.only_first, found.only_second, found.neither)
    shown = f"{points:+.1f} points [{low:+.1f}, {high:+.1f}]"
    return (found.extraction, *map(str, counts), shown, f"{found.p:.3g}")
