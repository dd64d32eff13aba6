"""Laws of asking: whatever fails, every question ends once, is paid once, and within the budget."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_teacher import TOKENS, Teacher, ask, failed, said

from lorapar_core.errors import BudgetReached
from lorapar_core.teachers.asking import Failed, Reply
from lorapar_core.teachers.ballot import Attempt
from lorapar_core.teachers.ledger import read_entries
from lorapar_core.teachers.prices import Price
from lorapar_core.teachers.purse import Purse, nano

PRICE = Price(prompt=1e-6, completion=1e-5)
MOST_USD = PRICE.of(*TOKENS)
Script = list[Reply | Failed]
NOT_KEPT = "refused, and not kept"

usages = st.tuples(st.integers(0, TOKENS[0]), st.integers(0, TOKENS[1]))
votes = st.builds(
    lambda label, used: said(label, prompt_tokens=used[0], completion_tokens=used[1]),
    st.sampled_from([1, 2]),
    usages,
)
unclear = st.builds(
    lambda used: said(None, "hm", prompt_tokens=used[0], completion_tokens=used[1]), usages
)
passing = st.one_of(
    st.builds(
        lambda retry_after_s: failed("429", 429, retry_after_s=retry_after_s), st.floats(0, 30)
    ),
    st.just(failed("500", 500)),
    st.just(failed("timeout", None, billed_usd=None)),
    st.just(failed("unreachable", None)),
)
refused = st.just(failed("400", 400, concerns="example"))
perhaps_refused = st.just(failed("400", 400, concerns="example?"))
scripts = st.lists(
    st.lists(passing | unclear | votes | refused | perhaps_refused, max_size=5),
    min_size=1,
    max_size=8,
)
limits = st.fixed_dictionaries(
    {
        "concurrency": st.integers(1, 10),
        "requests_per_minute": st.sampled_from([0, 20, 600]),
        "tokens_per_minute": st.sampled_from([0, 5000]),
        "deadline_s": st.sampled_from([5, 60, 10**6]),
        "longest_cool_down_s": st.sampled_from([1.0, 60.0]),
    }
)
seconds = st.sampled_from([0.0, 0.25, 3.0])


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lorapar_core.events._sink", lambda _event: None)
        yield


def by_script(drawn: list[Script], *, takes: float) -> Teacher:
    """Goes through an example's script, over all runs, and votes 1 from then on."""

    def reply(example_id: str, nth: int) -> Reply | Exception:
        script = drawn[int(example_id[1:])]
        return script[nth] if nth < len(script) else said(1)

    return Teacher(reply, seconds=takes)


def outcome(script: Script) -> tuple[int | None, str]:
    """Label, and why there is none: what a question with this script comes to in a single run."""
    unread = False
    for came in script:
        if isinstance(came, Failed):
            if came.concerns == "example":
                return None, "refused"
            if came.concerns == "example?":
                return None, NOT_KEPT
        elif came.label or unread:
            return came.label, "" if came.label else "off_schema"
        else:
            unread = True
    return 1, ""


def answered_before(ledger: Path) -> None:
    """So that a teacher which fails now is not taken for one that is not there."""
    ask(ledger, ["before"], Teacher())


@given(scripts, limits, seconds)
@settings(max_examples=150, deadline=None)
def test_every_question_ends_once_and_a_re_run_asks_for_no_vote_that_is_held(
    drawn: list[Script], limited: dict[str, Any], takes: float
) -> None:
    ids = [f"q{k}" for k in range(len(drawn))]
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger"
        answered_before(ledger)
        teacher = by_script(drawn, takes=takes)
        asked = ask(ledger, ids, teacher, price=PRICE, **limited)
        assert asked.error is None
        kept = asked.entries.votes.keys() - {"before"}
        assert kept | asked.late.keys() == set(ids)
        assert not kept & asked.late.keys()
        for example_id in kept:
            ballot = asked.entries.votes[example_id]
            assert (ballot.label, ballot.abstained) == outcome(drawn[int(example_id[1:])])
        if limited["deadline_s"] == 10**6:
            not_kept = {i for i in ids if outcome(drawn[int(i[1:])])[1] == NOT_KEPT}
            assert asked.late.keys() == not_kept
        attempts = Counter(attempt.example_id for attempt in asked.entries.attempts)
        del attempts["before"]
        assert attempts == teacher.asked
        assert not asked.entries.under_way
        assert teacher.most_at_once <= limited["concurrency"]

        again = Teacher()
        assert ask(ledger, ids, again, **limited).entries.votes.keys() >= set(ids)
        assert again.asked == dict.fromkeys(asked.late, 1)


@given(
    st.lists(st.lists(passing | votes, max_size=4), min_size=1, max_size=8),
    limits,
    seconds,
    st.lists(st.floats(0.1, 20), max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_however_often_it_is_stopped_no_answer_is_paid_twice(
    drawn: list[Script], limited: dict[str, Any], takes: float, stops: list[float]
) -> None:
    ids = [f"q{k}" for k in range(len(drawn))]
    limited = {**limited, "deadline_s": 10**6}
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger"
        answered_before(ledger)
        teacher = by_script(drawn, takes=takes)
        for after_s in stops:

            async def stop(task: asyncio.Task[Any], after_s: float = after_s) -> None:
                await asyncio.wait([task], timeout=after_s)
                task.cancel()

            try:
                ask(ledger, ids, teacher, beside=stop, **limited)
            except asyncio.CancelledError:
                assert not read_entries(ledger).under_way
        asked = ask(ledger, ids, teacher, **limited)
    assert asked.entries.votes.keys() == {*ids, "before"}
    outcomes = Counter(a.example_id for a in asked.entries.attempts if a.outcome == "vote")
    assert outcomes == dict.fromkeys([*ids, "before"], 1)
    assert len(asked.entries.attempts) == 1 + sum(teacher.asked.values())


def billed(attempt: Attempt) -> int:
    return nano(MOST_USD if attempt.cost_usd is None else attempt.cost_usd)


@given(
    scripts,
    limits,
    seconds,
    st.floats(0, 20) | st.none(),
    st.integers(0, 8) | st.none(),
)
@settings(max_examples=150, deadline=None)
def test_the_budget_is_kept_to_the_nano_dollar_and_to_the_vote(
    drawn: list[Script],
    limited: dict[str, Any],
    takes: float,
    requests: float | None,
    votes_cap: int | None,
) -> None:
    ids = [f"q{k}" for k in range(len(drawn))]
    usd_cap = None if requests is None else round(requests * MOST_USD, 9)
    with TemporaryDirectory() as folder:
        ledger, path = Path(folder) / "ledger", Path(folder) / "purse"
        answered_before(ledger)
        with closing(Purse.create(path, usd_cap=usd_cap, votes_cap=votes_cap)) as purse:
            asked = ask(
                ledger, ids, by_script(drawn, takes=takes), price=PRICE, purse=purse, **limited
            )
        sums = json.loads(path.read_text())
    attempts = [a for a in asked.entries.attempts if a.example_id != "before"]
    kept = len(asked.entries.votes) - 1
    assert sums["usd"] == sum(billed(attempt) for attempt in attempts)
    assert usd_cap is None or sums["usd"] <= sums["usd_cap"]
    assert sums["usd_reserved"] == sums["votes_reserved"] == 0
    assert sums["votes"] == kept
    assert votes_cap is None or kept <= votes_cap
    spent = asked.entries.spent_usd(set(ids))
    assert abs(spent - sums["usd"] / 10**9) <= len(attempts) / 10**9
    if asked.error:
        assert isinstance(asked.error, BudgetReached)
        # A vote that was reserved and came to nothing may be given back too late for the others.
        assert usd_cap is not None or votes_cap == kept + len(asked.late)
    else:
        assert kept + len(asked.late) == len(ids)
