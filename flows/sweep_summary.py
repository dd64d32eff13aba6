"""What a sweep came to: the comparison of its trials as plain values, and its page in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from artifacts import Ref, Store
from artifacts.durable import write_whole
from flows.composition import Runner
from flows.gathering import gathered, told
from flows.sweep_footprint import sweep_footprint
from flows.sweeps import Sweep, Trial
from lorapar_core.errors import StageFailed
from lorapar_core.sweep_run import with_sweep

MOST_TOLD = 3


def compared(
    sweep: Sweep,
    trials: Sequence[Trial],
    failed: Mapping[str, str],
    *,
    runner: Runner,
    command: str,
) -> dict[str, Any]:
    """Compare the trials that are done, and write the page; returns the summary.

    `failed`: name of a trial -> why. `command` makes the sweep again.

    Raises:
        StageFailed: all have failed.
        LoraparError, StoreError: the comparison fails.
    """
    if len(failed) == len(trials):
        raise StageFailed(f"all {len(trials)} trials failed; {_first(failed)}")
    store = runner.store
    found = gathered(sweep, trials, store)
    outcome = runner.submit(found.action).result()
    roles = outcome.outputs
    page = with_sweep(
        store.path(roles["report.html"]).read_text(encoding="utf-8"),
        sweep_footprint(found.done, store=store),
        command=command,
    )
    return {
        "sweep": sweep.name,
        "recipe": trials[0].recipe.name,
        "trials": len(trials),
        "artifacts": {f"{outcome.name}/{role}": ref.digest for role, ref in roles.items()},
        "results": store.read_json(roles["results.json"]),
        "report": str(_written(page, roles["report.html"], store)),
        "markdown": str(store.path(roles["report.md"])),
        "command": command,
        "failed": told(trials, found.done, failed),
    }


def _written(page: str, report: Ref, store: Store) -> Path:
    """Under a name that a browser opens."""
    path = store.root / "runs" / f"{report.digest[:16]}.html"
    write_whole(path, page.encode(), tmp=store.root / "tmp")
    return path


def failed_line(summary: Mapping[str, Any]) -> str:
    """Which trials failed and why, on one line; empty if none did."""
    failed = summary["failed"]
    if not failed:
        return ""
    return (
        f"{len(failed)} of {summary['trials']} trials failed, the others are kept and compared; "
        + _first({one["trial"]: one["error"] for one in failed})
    )


def _first(failed: Mapping[str, str]) -> str:
    """The first few, and how many more there are."""
    each = "; ".join(f"{name}: {error}" for name, error in list(failed.items())[:MOST_TOLD])
    more = len(failed) - MOST_TOLD
    return each + (f"; and {more} more" if more > 0 else "")
