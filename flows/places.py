"""Where this checkout keeps its recipes and deployments, and where a user's state stands."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENTS = ROOT / "deployments"
RECIPES = DEPLOYMENTS / "recipes"


def state_directory() -> Path:
    """Logs and process numbers of `lorapar up`: $LORAPAR_HOME, else ~/.local/state/lorapar."""
    if home := os.environ.get("LORAPAR_HOME"):
        return Path(os.path.expanduser(home)).resolve()  # noqa: PTH111  takes an unknown ~name
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base).resolve() / "lorapar"
