"""Go on after a corrupt artifact: it is in quarantine now, so asking again computes it anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from artifacts import CorruptObject, MissingObject

T = TypeVar("T")
MOST_REPAIRS = 8
_log = logging.getLogger("lorapar.store")


def healing(compose: Callable[[], T]) -> T:
    """`compose()`, tried again while it meets corrupt or missing objects.

    Raises:
        CorruptObject, MissingObject: still, after `MOST_REPAIRS` tries.
    """
    for _ in range(MOST_REPAIRS):
        try:
            return compose()
        except (CorruptObject, MissingObject) as error:
            _log.warning("%s; computing it again", error)
    return compose()
