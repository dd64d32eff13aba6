"""What a run took: seconds, memory, tokens and dollars, read out of its records and vote logs.

All of it may differ from run to run and is in no key, so it stands on the run's page and in no
artifact. A cached stage is told with what it took when it was computed, wherever that was. No log
of a training stage is read: were it corrupt, the stage would be trained again for a footnote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from artifacts import Record, Store
from lorapar_core.parquet import read_table
from tasks.action import Outcome

_TOLD = (
    *("peak_bytes", "peak_gpu_bytes", "elements", "active_elements", "optimizer_bytes"),
    "tokens_per_second",
)
_MACHINE = ("processor", "cpus", "threads", "processes", "nodes", "platform")
_LIBRARIES = ("lorapar", "torch", "transformers", "peft", "trl")


def footprint(outcomes: Sequence[Outcome], *, store: Store) -> dict[str, Any]:
    """Plain values: `stages` in order, `votes` by teacher, `machines`, `commits`, `artifacts`.

    What a record doesn't tell (one that an older release wrote) is left out.

    Raises:
        StoreError: a log is corrupt or gone.
    """
    found = recorded(outcomes, store=store)
    records = [record for _, record in found]
    return {
        "stages": [stage_footprint(outcome, record) for outcome, record in found],
        "votes": _votes([record for record in records if record.stage == "vote"], store),
        "machines": machines_of(records),
        "artifacts": {
            f"{outcome.name}/{role}": ref.digest
            for outcome, record in found
            for role, ref in record.outputs.items()
        },
        "commits": commits_of(records),
    }


def recorded(outcomes: Sequence[Outcome], *, store: Store) -> list[tuple[Outcome, Record]]:
    """The outcomes that the store has a record of, with it."""
    return [
        (outcome, record)
        for outcome in outcomes
        if outcome.key and (record := store.lookup(outcome.key)) is not None
    ]


def machines_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Each machine once, as `_machine` tells it."""
    return _distinct([_machine(record.provenance) for record in records])


def commits_of(records: Iterable[Record]) -> list[str]:
    """Each commit of ours once."""
    return _distinct([record.provenance.get("commit") for record in records])


def stage_footprint(outcome: Outcome, record: Record) -> dict[str, Any]:
    """What one stage took."""
    provenance = record.provenance
    told = provenance.get("footprint", {})
    return {
        "name": outcome.name,
        "action": outcome.action,
        "seconds": provenance.get("seconds"),
        "went_on": len(provenance.get("resumed", [])),
        **{name: told[name] for name in _TOLD if name in told},
    }


def _votes(records: Sequence[Record], store: Store) -> list[dict[str, Any]]:
    """By teacher: votes that a request brought, requests, tokens, and dollars as far as known.

    Teachers that are asked over no network are left out, and their logs are not opened: a run
    whose stages are all cached imports no library for them.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        teacher = record.config.get("teacher", {})
        log = record.outputs.get("vote_log.parquet")
        if log is None or teacher.get("provider") != "litellm":
            continue
        names = ["outcome", "prompt_tokens", "completion_tokens", "cost_usd"]
        columns = read_table(store.path(log), names)
        if not columns["outcome"]:
            continue
        name = str(teacher.get("name", record.name))
        zeros = {"votes": 0, "requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        row = found.setdefault(name, {"teacher": name, **zeros, "usd": 0.0, "unpriced": 0})
        row["votes"] += columns["outcome"].count("vote")
        row["requests"] += len(columns["outcome"])
        for count in ("prompt_tokens", "completion_tokens"):
            row[count] += sum(value or 0 for value in columns[count])
        row["usd"] += sum(value or 0.0 for value in columns["cost_usd"])
        row["unpriced"] += columns["cost_usd"].count(None)
    return list(found.values())


def _machine(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The hardware and the libraries; not the host's name, which is nobody's business."""
    libraries = provenance.get("libraries", {})
    gpu = provenance.get("footprint", {}).get("gpu")
    return {
        **({"gpu": gpu} if gpu else {}),
        **{name: provenance[name] for name in _MACHINE if provenance.get(name)},
        "libraries": {name: libraries[name] for name in _LIBRARIES if libraries.get(name)},
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found
