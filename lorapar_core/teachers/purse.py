"""What a run may still spend: reserved before a request is sent, settled when its bill is known.

The teachers of a run are asked by several processes, so the purse is a small file that they lock
(flock) to change it. It lives as long as the run; what was spent before is read from the ledgers,
which outlive it. Dollars are whole billionths, so that sums are exact.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

NANO = 1_000_000_000


Answer = Literal["yes", "later", "no"]


@dataclass(slots=True)
class _Sums:
    usd_cap: int | None
    votes_cap: int | None
    usd: int
    votes: int
    usd_reserved: int = 0
    votes_reserved: int = 0


class Purse:
    """The purse in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        usd_cap: float | None,
        votes_cap: int | None,
        usd: float = 0.0,
        votes: int = 0,
    ) -> Purse:
        """Make the file: the caps (None: no such cap), and what is spent already.

        Raises:
            OSError: it can't be written.
        """
        cap = None if usd_cap is None else int(Decimal(str(usd_cap)) * NANO)
        path.write_text(json.dumps(asdict(_Sums(cap, votes_cap, nano(usd), votes))))
        return cls(path)

    def close(self) -> None:
        os.close(self._descriptor)

    def reserve(self, *, usd: float = 0.0, votes: int = 0) -> Answer:
        """Take so much, if it is within the caps with all that is reserved ("yes"). "later": it may
        be, once others' reservations turn out lower; "no": it won't.
        """
        with self._locked() as sums:
            dollars, count = sums.usd + nano(usd), sums.votes + votes
            if _over(dollars, sums.usd_cap) or _over(count, sums.votes_cap):
                return "no"
            with_usd, with_votes = dollars + sums.usd_reserved, count + sums.votes_reserved
            if _over(with_usd, sums.usd_cap) or _over(with_votes, sums.votes_cap):
                return "later"
            sums.usd_reserved += nano(usd)
            sums.votes_reserved += votes
            return "yes"

    def settle(self, *, reserved_usd: float, actual_usd: float) -> None:
        """Replace a reservation by the bill."""
        with self._locked() as sums:
            sums.usd_reserved -= nano(reserved_usd)
            sums.usd += nano(actual_usd)

    def settle_vote(self, *, kept: bool) -> None:
        """A vote that was reserved is there, or came to nothing."""
        with self._locked() as sums:
            sums.votes_reserved -= 1
            sums.votes += kept

    def told(self) -> str:
        """`$0.0312 of $0.05`, `1200 of 1200 votes`, or both."""
        with self._locked() as sums:
            pass
        parts = []
        if sums.usd_cap is not None:
            parts.append(f"${sums.usd / NANO:.4f} of ${sums.usd_cap / NANO:g}")
        if sums.votes_cap is not None:
            parts.append(f"{sums.votes} of {sums.votes_cap} votes")
        return " and ".join(parts)

    @contextmanager
    def _locked(self) -> Iterator[_Sums]:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            sums = _Sums(**json.loads(os.pread(self._descriptor, 1024, 0)))
            yield sums
            text = json.dumps(asdict(sums)).encode().ljust(256)  # never shorter than before
            os.pwrite(self._descriptor, text, 0)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def nano(usd: float) -> int:
    """Billionths of a dollar, the next whole one: a bill is never rounded down."""
    return -int(-usd * NANO // 1)


def _over(amount: int, cap: int | None) -> bool:
    return cap is not None and amount > cap
