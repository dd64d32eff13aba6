"""A teacher that knows the truth and errs as its script says, to measure what label noise does.

The truth is the number of worked lines before "####": one is System 1, more are System 2. The vote
is wrong iff a number u, uniform in [0, 1), is below the script's error rate for that system, which
is `without_role_play` times as high where no part is played: that it is higher is an assumption. u
is drawn by the script's seed and the example, and is

    shared by all teachers   with probability sqrt(correlation)
    the teacher's own        else

so that the errors of two teachers with one script have that correlation: both share with
probability c, and else are independent, which makes their covariance c p (1 - p). Whoever shares
with a teacher of a lower error rate errs wherever that one does.

Draws are digests of seed, name and example id alone: any example has its vote, in any order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import sqrt

from lorapar_core.config import ScriptConfig, System
from lorapar_core.teachers.ballot import Ballot, Question
from lorapar_core.teachers.ledger import Ledger
from lorapar_core.true_system import true_system

SERVED = "script"


class ScriptedTeacher:
    """The votes of the script of teacher `name`."""

    def __init__(self, name: str, script: ScriptConfig, *, role_play: bool = True) -> None:
        self._name = name
        self._script = script
        self._role_play = role_play

    def vote(self, questions: Sequence[Question], ledger: Ledger) -> Mapping[str, Ballot]:
        """See `Teacher`.

        Raises:
            DataError: an answer has no worked line before its "####".
        """
        ledger.keep_now([self._ballot(question) for question in questions])
        return {}

    def _ballot(self, question: Question) -> Ballot:
        truth = true_system(question.answer)
        example_id, script = question.example_id, self._script
        wrong = errs(self._name, example_id, truth, script, role_play=self._role_play)
        label = System.TWO if (truth is System.ONE) is wrong else System.ONE
        return Ballot(example_id, int(label), reply="", served_model=SERVED)


def errs(
    name: str, example_id: str, truth: System, script: ScriptConfig, *, role_play: bool = True
) -> bool:
    """Whether the teacher is wrong about an example of system `truth`."""
    shares = _uniform(script.seed, "shares", name, example_id) < sqrt(script.correlation)
    drawn = _uniform(script.seed, "shared" if shares else f"own:{name}", example_id)
    rate = script.error_1 if truth is System.ONE else script.error_2
    return drawn < rate * (1 if role_play else script.without_role_play)


def _uniform(*parts: object) -> float:
    """A number in [0, 1) that the parts alone decide."""
    text = "\n".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
