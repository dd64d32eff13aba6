"""What a recipe's votes may cost: one purse for all vote processes of a run.

What earlier runs have spent on the recipe's examples is read from the teachers' ledgers, once,
where there is something to buy: a run that finds all its votes reads none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from artifacts import Store
from lorapar_core.config import RuntimeConfig
from lorapar_core.teachers.ledger import read_entries
from lorapar_core.teachers.purse import Purse


class Budget:
    """The caps of one run's voting. `ledgers`: teachers that cost money -> their ledgers."""

    def __init__(
        self, runtime: RuntimeConfig, *, store: Store, ledgers: Mapping[str, Path]
    ) -> None:
        self._runtime = runtime
        self._tmp = store.root / "tmp"
        self._ledgers = ledgers
        self._path: Path | None = None

    @contextmanager
    def ended(self) -> Iterator[None]:
        """A context after which no purse is left behind."""
        try:
            yield
        finally:
            if self._path:
                self._path.unlink(missing_ok=True)

    def purse(self, ids: Sequence[str]) -> Path | None:
        """The purse for votes on these examples, made at the first call; None without a cap."""
        runtime = self._runtime
        if runtime.budget_usd is None and runtime.budget_votes is None:
            return None
        if self._path is None:
            path = self._tmp / f"purse-{os.getpid()}-{os.urandom(4).hex()}"
            usd, votes = spent(self._ledgers.values(), ids)
            Purse.create(
                path,
                usd_cap=runtime.budget_usd,
                votes_cap=runtime.budget_votes,
                usd=usd,
                votes=votes,
            ).close()
            self._path = path
        return self._path

    def told(self) -> str:
        """What is spent, of what: `$0.0312 of $0.05`; empty without a purse."""
        if self._path is None:
            return ""
        with closing(Purse(self._path)) as purse:
            return purse.told()

    def missing(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Teacher -> votes that its ledger lacks, of those on the examples `wanted` of it."""
        return {
            name: len(set(ids) - read_entries(self._ledgers[name]).votes.keys())
            for name, ids in wanted.items()
            if name in self._ledgers
        }


def spent(ledgers: Iterable[Path], ids: Iterable[str]) -> tuple[float, int]:
    """Dollars and votes that these ledgers tell of, on these examples."""
    wanted, usd, votes = set(ids), 0.0, 0
    for ledger in ledgers:
        entries = read_entries(ledger)
        usd += entries.spent_usd(wanted)
        votes += len(wanted & entries.votes.keys())
    return usd, votes
