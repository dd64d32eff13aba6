"""Votes out of a Parquet file, as `votes.parquet` or by anybody who has the same columns.

Only `example_id` and `label` (1, 2, or null for an abstention) are needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorapar_core.errors import VoteError
from lorapar_core.parquet import read_table
from lorapar_core.teachers.ballot import Ballot, Question
from lorapar_core.teachers.ledger import Ledger

NOT_TOLD = "not_told"
"""Why a vote without a label has none, where the file doesn't say."""
_OPTIONAL = ("logprob_1", "logprob_2", "reply", "served_model", "abstained")


class ReplayTeacher:
    """Votes of the file at `path`."""

    def __init__(self, path: Path, *, name: str, digest: str | None = None) -> None:
        """`digest` (sha256): what the file is known by."""
        self._path = path
        self._name = name
        self._digest = digest

    def vote(self, questions: Sequence[Question], ledger: Ledger) -> Mapping[str, Ballot]:
        """See `Teacher`.

        Raises:
            VoteError: the file can't be read, or has no vote, or two, on an example.
        """
        self._require_unchanged()
        votes = self._votes()
        missing = [q.example_id for q in questions if q.example_id not in votes]
        if missing:
            raise VoteError(
                f"teacher {self._name!r} has no vote on {len(missing)} of {len(questions)} "
                f"examples (such as {missing[0]}) in {self._path}; give a file that has, or ask "
                "another teacher"
            )
        ledger.keep_now([votes[question.example_id] for question in questions])
        return {}

    def _require_unchanged(self) -> None:
        if self._digest is None or not self._path.is_file():
            return
        with self._path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._digest:
            raise VoteError(f"{self._path} was changed while the run read it; run again")

    def _votes(self) -> dict[str, Ballot]:
        try:
            table = read_table(self._path)
            columns = {name: table[name] for name in ("example_id", "label")}
        except (OSError, KeyError, ValueError) as error:
            raise VoteError(
                f"teacher {self._name!r}: {self._path} can't be read as votes ({error}); expected "
                "Parquet with the columns example_id and label"
            ) from error
        count = len(columns["example_id"])
        rest = {name: table.get(name, [None] * count) for name in _OPTIONAL}
        votes: dict[str, Ballot] = {}
        for row in range(count):
            ballot = _ballot(
                columns["example_id"][row],
                columns["label"][row],
                **{name: values[row] for name, values in rest.items()},
            )
            if ballot.label not in (1, 2, None) or ballot.example_id in votes:
                raise VoteError(
                    f"teacher {self._name!r}: row {row + 1} of {self._path} is a second vote on "
                    f"{ballot.example_id}, or its label {ballot.label!r} is not 1, 2 or null"
                )
            votes[ballot.example_id] = ballot
        return votes


def _ballot(
    example_id: str,
    label: int | None,
    *,
    logprob_1: float | None,
    logprob_2: float | None,
    reply: str | None,
    served_model: str | None,
    abstained: str | None,
) -> Ballot:
    return Ballot(
        example_id=example_id,
        label=label,
        reply=reply or "",
        served_model=served_model or "",
        abstained="" if label else (abstained or NOT_TOLD),
        logprob_1=logprob_1,
        logprob_2=logprob_2,
    )
