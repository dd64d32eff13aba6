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

NANO = 1_000_000_000


@dataclass(slots=True)
class _Sums:
    usd_cap: int | None
    votes_cap: int | None
    usd: int
    votes: int


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

    def reserve(self, *, usd: float = 0.0, votes: int = 0) -> bool:
        """Take so much, if it is within the caps."""
        with self._locked() as sums:
            dollars, count = sums.usd + nano(usd), sums.votes + votes
            if _over(dollars, sums.usd_cap) or _over(count, sums.votes_cap):
                return False
            sums.usd, sums.votes = dollars, count
            return True

    def settle(self, *, reserved_usd: float, actual_usd: float) -> None:
        """Replace a reservation by the bill."""
        with self._locked() as sums:
            sums.usd += nano(actual_usd) - nano(reserved_usd)

    def give_back_vote(self) -> None:
        """A vote that was reserved came to nothing."""
        with self._locked() as sums:
            sums.votes -= 1

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
