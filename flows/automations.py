"""deployments/automations.yaml, brought to the server: made, or made equal, by name."""

from __future__ import annotations

from typing import Any

import yaml

from flows.api import post, put
from flows.places import DEPLOYMENTS


def deploy_automations(url: str) -> None:
    """Bring the server's automations in line with the file; others' are left alone.

    Raises:
        ServiceError: the server refuses or doesn't answer.
    """
    for wanted in _wanted():
        known = post(
            f"{url}/api/automations/filter",
            automations={"name": {"any_": [wanted["name"]]}},
        )
        if known:  # whoever has switched it off wants it off
            kept = {**wanted, "enabled": known[0]["enabled"]}
            put(f"{url}/api/automations/{known[0]['id']}", **kept)
        else:
            post(f"{url}/api/automations/", **wanted)


def _wanted() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((DEPLOYMENTS / "automations.yaml").read_text())
    return [{"enabled": True, **automation} for automation in found]
