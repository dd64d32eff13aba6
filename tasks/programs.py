"""How programs are judged, as the keys tell it wherever there may be any, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

JUDGED: Mapping[str, int] = {"programs": 2}
"""Raised when an outcome may differ, or what is kept of it."""
