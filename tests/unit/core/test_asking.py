"""Asking a teacher that fails in every way: no vote is lost, none is paid twice, none overspends.

The teacher replies by a script, the ledger and the purse are real, and time is virtual.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scripted_teacher import TOKENS, USED, Script, Teacher, ask, failed, named, said

from lorapar_core.errors import BudgetReached, Stopped, VoteError
from lorapar_core.teachers.asking import (
    ENOUGH,
    FEW,
    FIRST_ANSWER_S,
    LONGEST_WAIT_S,
    UNREADABLE,
    WAIT_S,
    Failed,
    Reply,
)
from lorapar_core.teachers.ballot import Ballot
from lorapar_core.teachers.ledger import read_entries
from lorapar_core.teachers.pace import FIRST_PAUSE_S
from lorapar_core.teachers.prices import Price
from lorapar_core.teachers.purse import NANO, Purse, nano

PRICE = Price(prompt=1e-6, completion=1e-5)
MOST_USD = PRICE.of(*TOKENS)
USED_USD = PRICE.of(*USED)
PASSING = [
    failed("429", 429),
    failed("500", 500),
    failed("timeout", None, billed_usd=None),
    failed("malformed", None, billed_usd=None),
    failed("empty", None, billed_usd=None),
    failed("unreachable", None),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr("lorapar_core.events._sink", events.append)
    return events


@contextmanager
def purse_of(
    ledger: Path, *, usd_cap: float | None = None, votes_cap: int | None = None, usd: float = 0.0
) -> Iterator[Purse]:
    path = ledger.with_name("purse")
    with closing(Purse.create(path, usd_cap=usd_cap, votes_cap=votes_cap, usd=usd)) as purse:
        yield purse


def in_purse(ledger: Path) -> dict[str, Any]:
    sums: dict[str, Any] = json.loads(ledger.with_name("purse").read_text())
    return sums


def first(*came: Reply | Exception) -> Script:
    """So the teacher's first replies on each example; then a vote."""
    return lambda _example_id, nth: came[nth] if nth < len(came) else said()


# What a vote comes to.


def test_every_question_has_its_vote_on_the_disk_asked_once(ledger: Path) -> None:
    teacher = Teacher(lambda example_id, _nth: said(1 + int(example_id[1:]) % 2))
    asked = ask(ledger, named(100), teacher, price=PRICE)
    assert asked.labels() == {f"q{k}": 1 + k % 2 for k in range(100)}
    assert asked.entries.votes["q3"] == Ballot("q3", 2, "System 2", "served-7")
    assert set(teacher.asked.values()) == {1}
    assert asked.outcomes() == ["vote"] * 100
    assert asked.late == {}
    assert asked.error is None
    attempt = asked.entries.attempts[0]
    assert (attempt.prompt_tokens, attempt.completion_tokens) == USED
    assert (attempt.status, attempt.cost_usd, attempt.seconds) == (200, USED_USD, 1.0)
    assert asked.seconds == pytest.approx(100 / 8, abs=1)


@pytest.mark.parametrize("failure", PASSING, ids=lambda failure: failure.outcome)
def test_what_passes_is_asked_again_until_it_is_a_vote(ledger: Path, failure: Failed) -> None:
    teacher = Teacher(first(failure, failure))
    asked = ask(ledger, ["q"], teacher, price=PRICE)
    assert asked.labels() == {"q": 1}
    assert asked.outcomes() == [failure.outcome] * 2 + ["vote"]
    assert [a.status for a in asked.entries.attempts] == [failure.status] * 2 + [200]
    assert [a.cost_usd for a in asked.entries.attempts] == [failure.billed_usd] * 2 + [USED_USD]
    assert not asked.entries.under_way


@pytest.mark.parametrize("failure", PASSING, ids=lambda failure: failure.outcome)
def test_failures_are_never_votes_and_a_re_run_asks_for_what_is_missing(
    ledger: Path, failure: Failed
) -> None:
    def broken(example_id: str, _nth: int) -> Reply | Exception:
        return failure if example_id == "q1" else said()

    teacher = Teacher(broken)
    asked = ask(ledger, named(3), teacher, deadline_s=20)
    assert asked.late == {"q1": Ballot("q1", None, "", "", "deadline")}
    assert set(asked.labels()) == {"q0", "q2"}
    again = Teacher()
    assert ask(ledger, named(3), again).labels() == {"q0": 1, "q2": 1, "q1": 1}
    assert again.asked == {"q1": 1}
    assert ask(ledger, named(3), again).error is None
    assert again.asked == {"q1": 1}


def test_a_reply_that_is_no_label_is_put_once_more_with_what_was_said(ledger: Path) -> None:
    def unclear(example_id: str, nth: int) -> Reply:
        return said(2) if nth and example_id == "q0" else said(None, f"perhaps {nth}")

    teacher = Teacher(unclear)
    asked = ask(ledger, ["q0", "q1"], teacher, price=PRICE)
    assert asked.entries.votes == {
        "q0": Ballot("q0", 2, "System 2", "served-7"),
        "q1": Ballot("q1", None, "perhaps 1", "served-7", "off_schema"),
    }
    assert [(i, unread) for _, i, unread in teacher.sends] == [
        ("q0", None),
        ("q1", None),
        ("q0", "perhaps 0"),
        ("q1", "perhaps 0"),
    ]
    assert asked.outcomes("q0") == ["off_schema", "vote"]
    assert asked.outcomes("q1") == ["off_schema", "off_schema"]
    assert [a.cost_usd for a in asked.entries.attempts] == [USED_USD] * 4


def test_a_failure_between_two_replies_that_are_no_label_is_neither_of_them(ledger: Path) -> None:
    teacher = Teacher(first(said(None, "hm"), failed(), failed(), said(None, "no")))
    asked = ask(ledger, ["q"], teacher)
    assert asked.outcomes() == ["off_schema", "500", "500", "off_schema"]
    assert asked.entries.votes["q"].abstained == "off_schema"
    assert [unread for _, _, unread in teacher.sends] == [None, "hm", "hm", "hm"]


def test_an_example_that_the_provider_refuses_abstains_for_good(ledger: Path) -> None:
    teacher = Teacher(
        lambda example_id, _nth: (
            failed("400", 400, concerns="example") if example_id == "q1" else said()
        )
    )
    asked = ask(ledger, named(3), teacher)
    assert asked.entries.votes["q1"] == Ballot("q1", None, "it said 400", "", "refused")
    assert asked.outcomes("q1") == ["400"]
    ask(ledger, named(3), teacher)
    assert teacher.asked["q1"] == 1


def test_a_refusal_that_may_be_the_teachers_abstains_and_is_not_kept(ledger: Path) -> None:
    def refuses(example_id: str, _nth: int) -> Reply | Exception:
        return failed("400", 400, concerns="example?") if example_id == "q1" else said()

    teacher = Teacher(refuses)
    with purse_of(ledger, votes_cap=100) as purse:
        asked = ask(ledger, named(3), teacher, purse=purse)
        assert (in_purse(ledger)["votes"], in_purse(ledger)["votes_reserved"]) == (2, 0)
    assert asked.error is None
    assert asked.late == {"q1": Ballot("q1", None, "it said 400", "", "refused")}
    assert asked.labels() == {"q0": 1, "q2": 1}
    assert asked.outcomes("q1") == ["400"]
    again = Teacher()
    assert ask(ledger, named(3), again).labels() == {"q0": 1, "q1": 1, "q2": 1}
    assert again.asked == {"q1": 1}


# A teacher that is asked wrongly.


def unclear_until(first_label: int) -> Script:
    """No label to any example before this one."""
    return lambda i, _nth: said(2) if int(i[1:]) >= first_label else said(None, "Let me think")


@pytest.mark.parametrize("before", ["nothing", "an abstention"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_one_whose_first_replies_are_no_labels_is_given_up_and_none_is_kept(
    ledger: Path, concurrency: int, before: str
) -> None:
    earlier = set()
    if before == "an abstention":
        ask(ledger, ["q9999"], Teacher(lambda *_: said(None, "hm")))
        earlier = {"q9999"}
    teacher = Teacher(unclear_until(1000))
    asked = ask(ledger, named(500), teacher, concurrency=concurrency)
    assert isinstance(asked.error, VoteError)
    assert f"the first {UNREADABLE} replies of teacher 'far' are no labels" in str(asked.error)
    assert "'Let me think'; raise its max_tokens" in str(asked.error)
    assert set(asked.labels()) == earlier
    assert 2 * UNREADABLE <= len(teacher.sends) <= 2 * (UNREADABLE + concurrency - 1)
    assert not asked.entries.under_way
    again = ask(ledger, named(500), Teacher())
    assert set(again.labels()) == {*named(500), *earlier}
    assert {label for i, label in again.labels().items() if i not in earlier} == {1}


def test_with_its_first_label_the_replies_before_it_are_kept(ledger: Path) -> None:
    seen: list[set[str]] = []

    def script(example_id: str, nth: int) -> Reply | Exception:
        seen.append(set(read_entries(ledger).votes))
        return unclear_until(UNREADABLE - 1)(example_id, nth)

    asked = ask(ledger, named(UNREADABLE + 1), Teacher(script), concurrency=1)
    assert asked.error is None
    assert asked.late == {}
    unclear = dict.fromkeys(named(UNREADABLE - 1))
    assert asked.labels() == {**unclear, f"q{UNREADABLE - 1}": 2, f"q{UNREADABLE}": 2}
    assert asked.entries.votes["q0"].abstained == "off_schema"
    assert seen[-2:] == [set(), set(named(UNREADABLE))], "held back until then, and not longer"


@pytest.mark.parametrize("before", ["in this run", "in an earlier run"])
def test_one_that_has_given_a_label_may_fail_to_as_often_as_it_likes(
    ledger: Path, before: str
) -> None:
    script: Script = lambda i, _nth: said(1) if i == "q0" else said(None, "hm")  # noqa: E731
    if before == "in an earlier run":
        ask(ledger, ["q0"], Teacher(script))
    asked = ask(ledger, named(3 * UNREADABLE), Teacher(script), concurrency=1)
    assert asked.error is None
    assert asked.labels() == {**dict.fromkeys(named(3 * UNREADABLE)), "q0": 1}


def test_too_few_to_tell_are_kept_in_the_end_and_count_as_bought(ledger: Path) -> None:
    with purse_of(ledger, votes_cap=100) as purse:
        asked = ask(ledger, named(UNREADABLE - 1), Teacher(unclear_until(1000)), purse=purse)
        assert in_purse(ledger)["votes"] == UNREADABLE - 1
    assert (asked.error, asked.late) == (None, {})
    assert asked.labels() == dict.fromkeys(named(UNREADABLE - 1))
    again = Teacher()
    ask(ledger, named(UNREADABLE - 1), again)
    assert not again.sends


def test_log_probabilities_are_kept(ledger: Path) -> None:
    teacher = Teacher(lambda *_: said(1, "1", logprob_1=-0.25, logprob_2=-1.5))
    ballot = ask(ledger, ["q"], teacher).entries.votes["q"]
    assert (ballot.logprob_1, ballot.logprob_2) == (-0.25, -1.5)


def test_without_a_price_the_cost_is_unknown(ledger: Path) -> None:
    assert [a.cost_usd for a in ask(ledger, ["q"], Teacher()).entries.attempts] == [None]


def test_nothing_to_ask_is_no_error(ledger: Path) -> None:
    asked = ask(ledger, [], Teacher())
    assert (asked.late, asked.error, asked.seconds) == ({}, None, 0)


def test_it_tells_how_far_it_is_and_what_it_has_cost(
    ledger: Path, told: list[dict[str, Any]]
) -> None:
    ask(ledger, named(3), Teacher(first(said(None, "hm"))), price=PRICE, concurrency=1)
    assert told == [
        {"event": "progress", "step": k, "total": 3, "usd": pytest.approx(2 * k * USED_USD)}
        for k in (1, 2, 3)
    ]


# Pace.


def test_no_more_are_in_flight_than_allowed_and_no_more_tasks_live_than_those(
    ledger: Path,
) -> None:
    teacher = Teacher()
    asked = ask(ledger, named(5000), teacher, concurrency=16)
    assert teacher.most_at_once == 16
    assert teacher.most_tasks <= 2 * 16 + 4  # a worker, a request each; and a few of ours
    assert len(asked.entries.votes) == 5000
    assert asked.seconds == pytest.approx(5000 / 16, abs=2)


def test_requests_a_minute_are_kept_with_retries_among_them(ledger: Path) -> None:
    teacher = Teacher(
        lambda i, nth: failed() if nth == 0 and int(i[1:]) % 2 else said(), seconds=0.1
    )
    ask(ledger, named(80), teacher, requests_per_minute=60, concurrency=32)
    times = [at for at, _, _ in teacher.sends]
    assert len(times) == 120
    for start in times:
        assert sum(start <= at < start + 60 for at in times) <= 61
    assert times[-1] <= 130


def test_tokens_a_minute_are_what_was_used_not_what_was_feared(ledger: Path) -> None:
    teacher = Teacher(seconds=0.1)
    used = sum(USED)
    asked = ask(ledger, named(600), teacher, tokens_per_minute=60 * used, concurrency=32)
    times = sorted(at for at, _, _ in teacher.sends)
    feared = 32 * (sum(TOKENS) - used)
    for start in times:
        # What it reserved too much until it knew better goes out beside the rest, once.
        over = feared / used if start < 150 else 0
        assert sum(start <= at < start + 60 for at in times) <= 60 + over + 1
    assert 550 <= asked.seconds <= 600 * 1.15


def test_a_reply_that_might_be_long_is_not_waited_for_once_it_is_known_to_be_short(
    ledger: Path,
) -> None:
    """A model that reasons may take 16000 tokens; at 4200 a minute that is 4 minutes a request."""
    teacher = Teacher(seconds=0.0)
    used = sum(USED)
    ask(
        ledger,
        named(200),
        teacher,
        tokens=(100, 16000),
        tokens_per_minute=100 * used,
        concurrency=1,
    )
    times = [at for at, _, _ in teacher.sends]
    gaps = [later - former for former, later in pairwise(times)]
    assert min(gaps[: ENOUGH - 1]) > 200
    assert max(gaps[ENOUGH:]) <= 60 / 100 + 1e-6
    assert times[-1] - times[ENOUGH] >= (200 - ENOUGH - 3) * 60 / 100, "and the limit is kept"


def test_concurrency_finds_what_a_teacher_bears_and_stays_near_it(ledger: Path) -> None:
    def busy(_example_id: str, _nth: int) -> Reply | Exception:
        return failed("429", 429) if teacher.at_once > 10 else said()

    teacher = Teacher(busy)
    asked = ask(ledger, named(3000), teacher, concurrency=64)
    assert len(asked.labels()) == 3000
    assert asked.late == {}
    assert asked.seconds < 3 * 3000 / 10
    assert asked.outcomes().count("429") < 0.5 * 3000


def test_it_recovers_once_the_teacher_bears_more(ledger: Path) -> None:
    def busy(_example_id: str, _nth: int) -> Reply | Exception:
        early = asyncio.get_running_loop().time() < 60
        return failed("429", 429) if early and teacher.at_once > 4 else said()

    teacher = Teacher(busy)
    ask(ledger, named(4000), teacher, concurrency=64)
    late = [at for at, _, _ in teacher.sends if 80 <= at < 90]
    assert len(late) >= 0.9 * 10 * 64


@pytest.mark.parametrize("retry_after_s", [7.0, 45.0])
def test_retry_after_is_waited_for(ledger: Path, retry_after_s: float) -> None:
    teacher = Teacher(first(failed("429", 429, retry_after_s=retry_after_s)))
    ask(ledger, named(3), teacher)
    for example_id in named(3):
        asked, again = (at for at, i, _ in teacher.sends if i == example_id)
        assert retry_after_s <= again - (asked + 1) <= retry_after_s + 0.01


def test_a_paused_teacher_is_left_alone_as_long_as_it_asks(ledger: Path) -> None:
    def busy(_example_id: str, _nth: int) -> Reply | Exception:
        early = asyncio.get_running_loop().time() < 300
        return failed("429", 429, retry_after_s=100) if early else said()

    teacher = Teacher(busy, seconds=0.0)
    ask(ledger, ["before"], Teacher())
    asked = ask(ledger, named(64), teacher, concurrency=32)
    times = [at for at, _, _ in teacher.sends]
    assert sum(0 < at < 100 for at in times) == 0
    assert sum(at < 300 for at in times) <= 32 + 3
    assert len(asked.labels()) == 64 + 1


# The deadline.


def test_a_vote_that_fails_past_its_deadline_abstains_and_the_others_go_on(ledger: Path) -> None:
    def one_fails(example_id: str, _nth: int) -> Reply | Exception:
        return failed() if example_id == "q7" else said()

    teacher = Teacher(one_fails)
    asked = ask(ledger, named(2000), teacher, concurrency=4, deadline_s=100)
    assert set(asked.late) == {"q7"}
    assert asked.late["q7"].abstained == "deadline"
    assert "q7" not in asked.labels()
    assert len(asked.labels()) == 1999
    times = [at for at, i, _ in teacher.sends if i == "q7"]
    assert 100 < times[-1] - times[0] <= 100 + 8 + 1
    assert len(times) == len(asked.outcomes("q7")) > 10
    assert asked.error is None


@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_a_single_poisoned_example_of_5000_is_a_late_vote_and_no_outage(
    ledger: Path, concurrency: int
) -> None:
    """Asked last it has nobody's answers beside it, and in a re-run nobody's at all."""

    def poisoned(example_id: str, _nth: int) -> Reply | Exception:
        return failed() if example_id == "q4999" else said()

    for sofar in (4999, 0):
        teacher = Teacher(poisoned)
        asked = ask(ledger, named(5000), teacher, concurrency=concurrency)
        assert asked.error is None
        assert asked.late == {"q4999": Ballot("q4999", None, "", "", "deadline")}
        assert set(asked.labels()) == set(named(4999))
        assert sum(teacher.asked.values()) - teacher.asked["q4999"] == sofar
        times = [at for at, i, _ in teacher.sends if i == "q4999"]
        assert 7200 <= times[-1] - times[0] <= 7200 + 70 + 72  # 10 pauses first, a cool-down last
        assert asked.seconds <= 5000 / concurrency + 7200 + 150
        assert not asked.entries.under_way


@pytest.mark.parametrize(("poisoned", "late"), [(1, True), (FEW - 1, True), (FEW, False)])
def test_from_five_examples_on_it_is_the_teacher_that_fails(
    ledger: Path, poisoned: int, late: bool
) -> None:
    """Of one that has answered before, with nothing else left to ask."""
    ask(ledger, ["before"], Teacher())
    teacher = Teacher(lambda *_: failed())
    asked = ask(ledger, named(poisoned), teacher, deadline_s=60, outage_s=1800)
    assert len(asked.late) == (poisoned if late else 0)
    assert isinstance(asked.error, VoteError) is not late
    assert 1800 < asked.seconds < 1800 + 150 + 73 * poisoned, "each ends as a probe"


@pytest.mark.parametrize("then", [(), (failed(), failed("429", 429))])
def test_a_provider_that_asks_for_a_wait_beyond_the_deadline_gets_it_and_the_vote_is_there(
    ledger: Path, then: tuple[Failed, ...]
) -> None:
    came = failed("429", 429, retry_after_s=900), *then

    def busy(example_id: str, nth: int) -> Reply | Exception:
        return came[nth] if example_id == "q3" and nth < len(came) else said()

    teacher = Teacher(busy)
    asked = ask(ledger, named(50), teacher, concurrency=4, deadline_s=600)
    assert (asked.error, asked.late) == (None, {})
    assert asked.labels() == dict.fromkeys(named(50), 1)
    assert 900 <= asked.seconds <= 930


def test_what_it_fails_beside_the_wait_that_was_asked_for_counts_as_ever(ledger: Path) -> None:
    def one_fails(example_id: str, nth: int) -> Reply | Exception:
        if example_id != "q3":
            return said()
        return failed() if nth else failed("429", 429, retry_after_s=900)

    teacher = Teacher(one_fails)
    asked = ask(ledger, named(5000), teacher, concurrency=4, deadline_s=100)
    assert set(asked.late) == {"q3"}
    times = [at for at, i, _ in teacher.sends if i == "q3"]
    own_pause_s = FIRST_PAUSE_S  # what it would have paused anyhow is no part of the wait
    assert 1000 - own_pause_s <= times[-1] - times[0] <= 1000 + 10


def test_waiting_for_its_turn_takes_nothing_off_a_votes_deadline(ledger: Path) -> None:
    """At 3 requests a minute, 32 in flight, the last one's first request goes out after 10 min."""
    teacher = Teacher(
        lambda example_id, nth: failed() if (example_id, nth) == ("q31", 0) else said()
    )
    asked = ask(ledger, named(32), teacher, requests_per_minute=3, concurrency=32, deadline_s=600)
    assert asked.late == {}
    assert asked.labels()["q31"] == 1
    assert asked.seconds > 600


def test_once_it_refuses_nothing_more_is_sent_than_is_under_way(ledger: Path) -> None:
    """All eight are answered in the same instant, and the seven others would go right on."""

    def refused(example_id: str, _nth: int) -> Reply | Exception:
        nth = int(example_id[1:])
        if nth < 16:
            return said()
        return failed("400", 400, concerns="teacher" if nth == 16 else "example?")

    teacher = Teacher(refused)
    asked = ask(ledger, named(200), teacher, concurrency=8)
    assert isinstance(asked.error, VoteError)
    assert len(teacher.sends) == 24
    assert len(asked.labels()) == 16


# A teacher that is gone.


def test_an_outage_of_an_hour_loses_none_of_5000_votes(ledger: Path) -> None:
    def gone(_example_id: str, _nth: int) -> Reply | Exception:
        now = asyncio.get_running_loop().time()
        return failed("unreachable", None) if 20 < now < 3620 else said()

    teacher = Teacher(gone)
    asked = ask(ledger, named(5000), teacher, concurrency=64, deadline_s=60)
    assert asked.error is None
    assert asked.late == {}
    assert len(asked.labels()) == 5000
    assert sum(20 < at < 3600 for at, _, _ in teacher.sends) < 2 * 64 + 80
    assert len(teacher.sends) == len(asked.entries.attempts)
    assert asked.seconds < 3620 + 80 + 5000 / 64 + 60


@pytest.mark.parametrize("refusals", [1, 3])
def test_a_probe_that_is_refused_leaves_its_place_to_another(ledger: Path, refusals: int) -> None:
    """A 400 that may be the teacher's tells neither that it is back nor that it is gone."""
    refused: set[str] = set()

    def gone(example_id: str, _nth: int) -> Reply | Exception:
        now = asyncio.get_running_loop().time()
        if not 20 < now < 400:  # time for three probes, 72 s apart at the most
            return said()
        if now > 60 and len(refused) < refusals:
            refused.add(example_id)
            return failed("400", 400, concerns="example?")
        return failed("unreachable", None)

    asked = ask(ledger, named(500), Teacher(gone), concurrency=8)
    assert asked.error is None
    assert len(refused) == refusals
    assert set(asked.late) == refused
    assert len(asked.labels()) == 500 - refusals


@pytest.mark.parametrize("begins", [10, 29])
@pytest.mark.parametrize("concurrency", [1, 2, 4, 8])
def test_three_quarters_of_an_hour_without_it_lose_no_vote_however_few_are_asked_at_once(
    ledger: Path, concurrency: int, begins: float
) -> None:
    """In the midst of it, or with the last few questions."""

    def gone(_example_id: str, _nth: int) -> Reply | Exception:
        now = asyncio.get_running_loop().time()
        return failed("unreachable", None) if begins < now < begins + 2700 else said()

    ids = named(30 * concurrency)
    asked = ask(ledger, ids, Teacher(gone), concurrency=concurrency)
    assert (asked.error, asked.late) == (None, {})
    assert asked.labels() == dict.fromkeys(ids, 1)
    assert asked.seconds > 2700


def test_with_questions_left_one_that_is_gone_for_good_is_an_error_and_no_vote_is_late(
    ledger: Path,
) -> None:
    """Though it fails on two examples only, which are all that are asked at once."""
    teacher = Teacher(lambda i, _nth: said() if int(i[1:]) < 50 else failed())
    asked = ask(ledger, named(200), teacher, concurrency=2, outage_s=1800)
    assert isinstance(asked.error, VoteError)
    assert set(asked.labels()) == set(named(50))
    assert len(teacher.asked) == 52


def test_a_single_example_of_a_teacher_that_never_answered_is_no_late_vote(ledger: Path) -> None:
    asked = ask(ledger, ["q"], Teacher(lambda *_: failed()))
    assert isinstance(asked.error, VoteError)
    assert FIRST_ANSWER_S <= asked.seconds <= FIRST_ANSWER_S + 70 + 73


def test_a_teacher_that_never_answered_is_given_up_soon(ledger: Path) -> None:
    asked = ask(ledger, named(100), Teacher(lambda *_: failed("unreachable", None)))
    assert isinstance(asked.error, VoteError)
    assert "'far' has not answered for" in str(asked.error)
    assert "(unreachable: it said unreachable)" in str(asked.error)
    assert FIRST_ANSWER_S <= asked.seconds <= FIRST_ANSWER_S + 100
    assert asked.labels() == {}


@pytest.mark.parametrize("before", ["this run", "an earlier run"])
def test_one_that_has_answered_before_is_waited_for_longer(ledger: Path, before: str) -> None:
    if before == "an earlier run":
        ask(ledger, ["q0"], Teacher())
    teacher = Teacher(lambda example_id, _nth: said() if example_id == "q0" else failed())
    asked = ask(ledger, named(100), teacher, outage_s=1800)
    assert isinstance(asked.error, VoteError)
    assert 1800 <= asked.seconds <= 1800 + 100
    assert asked.labels() == {"q0": 1}
    assert teacher.asked["q0"] == (before == "this run")


@pytest.mark.parametrize("status", [429, 503])
def test_one_that_is_busy_before_its_first_answer_is_there_and_waited_for(
    ledger: Path, status: int
) -> None:
    def busy(_example_id: str, _nth: int) -> Reply | Exception:
        early = asyncio.get_running_loop().time() < 5 * FIRST_ANSWER_S
        return failed(str(status), status) if early else said()

    asked = ask(ledger, named(100), Teacher(busy))
    assert asked.error is None
    assert asked.labels() == dict.fromkeys(named(100), 1)

    for_ever = ask(
        ledger.with_name("other"),
        named(100),
        Teacher(lambda *_: failed(str(status), status)),
        outage_s=1800,
    )
    assert isinstance(for_ever.error, VoteError)
    assert 1800 <= for_ever.seconds <= 1800 + 100


@pytest.mark.parametrize("status", [500, 502, None])
def test_other_failures_say_nothing_of_whether_it_is_there(
    ledger: Path, status: int | None
) -> None:
    asked = ask(ledger, named(100), Teacher(lambda *_: failed("odd", status)))
    assert isinstance(asked.error, VoteError)
    assert FIRST_ANSWER_S <= asked.seconds <= FIRST_ANSWER_S + 100


def test_one_that_was_busy_once_and_is_gone_then_is_waited_for_too(ledger: Path) -> None:
    def gone(example_id: str, nth: int) -> Reply | Exception:
        return failed("429", 429) if (example_id, nth) == ("q3", 0) else failed("unreachable", None)

    asked = ask(ledger, named(100), Teacher(gone), outage_s=1800)
    assert isinstance(asked.error, VoteError)
    assert 1800 <= asked.seconds <= 1800 + 100


def test_a_provider_that_asks_for_a_days_patience_gets_no_more_than_the_outage(
    ledger: Path,
) -> None:
    def busy(example_id: str, _nth: int) -> Reply | Exception:
        return said() if example_id == "q0" else failed("429", 429, retry_after_s=86400)

    asked = ask(ledger, named(100), Teacher(busy), outage_s=1800, deadline_s=10**6, concurrency=16)
    assert isinstance(asked.error, VoteError)
    assert 1800 <= asked.seconds <= 1.2 * 1800 + 10


def test_a_refusal_of_the_teacher_stops_at_once_and_keeps_what_is_under_way(
    ledger: Path,
) -> None:
    teacher = Teacher(
        lambda example_id, _nth: (
            failed("401", 401, concerns="teacher") if example_id == "q20" else said()
        ),
        takes=lambda example_id, _nth: 0.5 if example_id == "q20" else 1.0,
    )
    asked = ask(ledger, named(1000), teacher)
    assert isinstance(asked.error, VoteError)
    assert str(asked.error) == "it said 401"
    assert set(asked.labels()) == set(teacher.asked) - {"q20"}
    assert len(teacher.asked) == 24
    assert not asked.entries.under_way
    assert asked.seconds == 3.0


def test_a_stop_sends_nothing_more_and_keeps_what_is_under_way(ledger: Path) -> None:
    async def stops(_task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(10.5)
        os.kill(os.getpid(), signal.SIGTERM)

    teacher = Teacher()
    asked = ask(ledger, named(1000), teacher, beside=stops)
    assert isinstance(asked.error, Stopped)
    assert "teacher 'far' was told to stop; its votes so far are kept" in str(asked.error)
    assert max(at for at, _, _ in teacher.sends) == 10
    assert set(asked.labels()) == set(teacher.asked)
    assert len(asked.labels()) == 88
    assert asked.seconds == 11
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stop_ends_a_pause_at_once(ledger: Path) -> None:
    async def stops(_task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(1000)
        os.kill(os.getpid(), signal.SIGTERM)

    teacher = Teacher(lambda example_id, _nth: said() if example_id == "q0" else failed())
    asked = ask(ledger, named(100), teacher, beside=stops)
    assert isinstance(asked.error, Stopped)
    assert asked.seconds <= 1001


def test_an_error_of_our_own_keeps_what_is_under_way_too(ledger: Path) -> None:
    teacher = Teacher(
        lambda example_id, _nth: ZeroDivisionError() if example_id == "q3" else said(),
        takes=lambda example_id, _nth: 0.5 if example_id == "q3" else 1.0,
    )
    with pytest.raises(ZeroDivisionError):
        ask(ledger, named(100), teacher)
    assert set(read_entries(ledger).votes) == set(named(8)) - {"q3"}
    assert len(teacher.asked) == 8


def test_ctrl_c_keeps_what_is_under_way_too(ledger: Path) -> None:
    async def interrupts(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(0.5)
        task.cancel()  # as asyncio's own handler of SIGINT does

    with pytest.raises(asyncio.CancelledError):
        ask(ledger, named(100), Teacher(), beside=interrupts)
    assert set(read_entries(ledger).votes) == set(named(8))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_ends_it_with_no_vote_that_is_not_there(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real, allowed = getattr(os, call), 40

    def full(*given: Any) -> Any:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)

    teacher = Teacher()
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        asked = ask(ledger, named(1000), teacher)
    assert isinstance(asked.error, VoteError)
    assert "can't be written (No space left on device)" in str(asked.error)
    assert len(teacher.asked) < 1000
    again = Teacher()
    assert set(ask(ledger, named(1000), again).labels()) == set(named(1000))
    assert set(again.asked) == set(named(1000)) - set(asked.labels())


# Budget.


def test_with_64_in_flight_not_a_nano_dollar_is_overspent(ledger: Path) -> None:
    cap = 0.0123
    reserved: list[int] = []

    def looks(example_id: str, _nth: int) -> Reply:
        sums = in_purse(ledger)
        reserved.append(sums["usd"] + sums["usd_reserved"])
        assert sums["usd_reserved"] >= teacher.at_once * nano(MOST_USD)
        assert teacher.at_once * nano(MOST_USD) <= nano(cap)
        return said(prompt_tokens=40 + int(example_id[1:]) % 60)

    teacher = Teacher(looks)
    with purse_of(ledger, usd_cap=cap) as purse:
        asked = ask(ledger, named(5000), teacher, price=PRICE, purse=purse, concurrency=64)
        spent, reserved_still = in_purse(ledger)["usd"], in_purse(ledger)["usd_reserved"]
    assert reserved_still == 0
    assert isinstance(asked.error, BudgetReached)
    assert teacher.most_at_once >= 60
    assert max(reserved) <= nano(cap)
    assert nano(cap) - nano(MOST_USD) < spent <= nano(cap)  # and it was used up
    costs = [attempt.cost_usd or 0.0 for attempt in asked.entries.attempts]
    assert sum(nano(usd) for usd in costs) == spent
    assert len(asked.labels()) == len(costs)
    assert set(asked.labels()) == set(teacher.asked)


def test_at_the_cap_those_who_wait_are_not_left_waiting(ledger: Path) -> None:
    """The last bill takes the whole reservation; who waits for it must learn that it was the last,
    though its vote is still on its way to the disk."""
    full = said(prompt_tokens=TOKENS[0], completion_tokens=TOKENS[1])
    with purse_of(ledger, usd_cap=1.5 * MOST_USD) as purse:
        asked = ask(ledger, named(50), Teacher(lambda *_: full), price=PRICE, purse=purse)
    assert isinstance(asked.error, BudgetReached)
    said_of_it = "teacher 'far' stops at the cap ($0.0002 of $0.0003 spent); its votes so far are"
    assert str(asked.error) == f"{said_of_it} kept"
    assert len(asked.labels()) == 1


def test_the_message_at_the_cap_tells_what_was_spent_in_the_end(ledger: Path) -> None:
    """The dollars of the last bill are known before its vote is on the disk."""
    full = said(prompt_tokens=TOKENS[0], completion_tokens=TOKENS[1])
    with purse_of(ledger, usd_cap=1.5 * MOST_USD, votes_cap=100) as purse:
        asked = ask(ledger, named(50), Teacher(lambda *_: full), price=PRICE, purse=purse)
    assert isinstance(asked.error, BudgetReached)
    assert "($0.0002 of $0.0003 and 1 of 100 votes spent)" in str(asked.error)


def test_what_is_too_dear_now_waits_for_bills_that_come_in_lower(ledger: Path) -> None:
    teacher = Teacher()
    with purse_of(ledger, usd_cap=2 * MOST_USD + 19 * USED_USD) as purse:
        asked = ask(ledger, named(20), teacher, price=PRICE, purse=purse)
    assert asked.error is None
    assert len(asked.labels()) == 20
    assert teacher.most_at_once >= 3


def test_a_bill_that_nobody_knows_keeps_its_reservation_in_later_runs_too(ledger: Path) -> None:
    lost = failed("timeout", None, billed_usd=None)
    with purse_of(ledger, usd_cap=1.0) as purse:
        asked = ask(ledger, ["q"], Teacher(first(lost, lost)), price=PRICE, purse=purse)
        assert in_purse(ledger)["usd"] == 2 * nano(MOST_USD) + nano(USED_USD)
    expected = 2 * MOST_USD + USED_USD
    assert asked.entries.spent_usd({"q"}) == pytest.approx(expected, abs=1 / NANO)


def test_a_server_that_does_not_tell_what_it_used_is_not_free(ledger: Path) -> None:
    untold = said(prompt_tokens=0, completion_tokens=0)
    with purse_of(ledger, usd_cap=2.5 * MOST_USD) as purse:
        asked = ask(ledger, named(9), Teacher(lambda *_: untold), price=PRICE, purse=purse)
    assert isinstance(asked.error, BudgetReached)
    assert len(asked.labels()) == 2
    assert [a.cost_usd for a in asked.entries.attempts] == [None, None]


def test_failures_that_are_not_billed_give_their_reservation_back(ledger: Path) -> None:
    with purse_of(ledger, usd_cap=1.5 * MOST_USD) as purse:
        asked = ask(ledger, ["q"], Teacher(first(*PASSING[:2])), price=PRICE, purse=purse)
        assert in_purse(ledger)["usd"] == nano(USED_USD)
    assert asked.labels() == {"q": 1}


@pytest.mark.parametrize("cap", [1, 63, 64, 65, 200])
def test_exactly_the_votes_of_the_cap_are_bought(ledger: Path, cap: int) -> None:
    teacher = Teacher()
    with purse_of(ledger, votes_cap=cap) as purse:
        asked = ask(ledger, named(300), teacher, purse=purse, concurrency=64)
    assert isinstance(asked.error, BudgetReached)
    assert f"({cap} of {cap} votes spent)" in str(asked.error)
    assert len(asked.labels()) == cap == sum(teacher.asked.values())


def test_a_cap_that_is_enough_is_no_error(ledger: Path) -> None:
    with purse_of(ledger, votes_cap=100) as purse:
        asked = ask(ledger, named(100), Teacher(first(failed())), purse=purse)
    assert asked.error is None
    assert len(asked.labels()) == 100


def test_at_the_cap_what_was_begun_is_ended(ledger: Path) -> None:
    """One is asked again after failures, another has no label yet: they are votes of the cap."""
    came: dict[str, tuple[Reply | Failed, ...]] = {
        "q0": (failed(), failed()),
        "q1": (said(None, "hm"),),
        "q2": (failed("429", 429),),
    }
    teacher = Teacher(
        lambda i, nth: came[i][nth] if nth < len(came.get(i, ())) else said(),
    )
    with purse_of(ledger, votes_cap=3) as purse:
        asked = ask(ledger, named(50), teacher, purse=purse)
    assert isinstance(asked.error, BudgetReached)
    assert asked.labels() == {"q0": 1, "q1": 1, "q2": 1}


def test_votes_that_come_to_nothing_are_given_back(ledger: Path) -> None:
    with purse_of(ledger, votes_cap=10) as purse:
        teacher = Teacher(lambda i, _: said() if i == "q0" else failed())
        asked = ask(ledger, named(4), teacher, purse=purse, deadline_s=5, outage_s=9999)
        assert (in_purse(ledger)["votes"], in_purse(ledger)["votes_reserved"]) == (1, 0)
    assert asked.labels() == {"q0": 1}
    assert set(asked.late) == {"q1", "q2", "q3"}


def test_votes_that_are_too_dear_are_given_back(ledger: Path) -> None:
    with purse_of(ledger, votes_cap=100, usd_cap=MOST_USD + USED_USD) as purse:
        asked = ask(ledger, named(50), Teacher(), price=PRICE, purse=purse)
        assert in_purse(ledger)["votes"] == len(asked.labels()) > 0
        assert in_purse(ledger)["votes_reserved"] == in_purse(ledger)["usd_reserved"] == 0
    assert isinstance(asked.error, BudgetReached)


def test_a_probe_that_is_too_dear_holds_up_nobody(ledger: Path) -> None:
    """The teacher fails and its bills are unknown: while it is paused the money runs out."""
    lost = failed("timeout", None, billed_usd=None)
    with purse_of(ledger, usd_cap=12 * MOST_USD) as purse:
        asked = ask(ledger, named(50), Teacher(lambda *_: lost), price=PRICE, purse=purse)
    assert isinstance(asked.error, BudgetReached)
    assert asked.outcomes() == ["timeout"] * 12
    assert not asked.entries.under_way


def test_money_that_is_spent_sends_nothing(ledger: Path) -> None:
    teacher = Teacher()
    with purse_of(ledger, usd_cap=0.05, usd=0.05) as purse:
        asked = ask(ledger, named(50), teacher, price=PRICE, purse=purse)
    assert isinstance(asked.error, BudgetReached)
    assert not teacher.sends
    assert not asked.entries.sent


# What others have reserved.


def in_cents(ledger: Path, *, others_usd: float, others_votes: int = 0, **caps: Any) -> Purse:
    """A purse in which another process has reserved something."""
    purse = Purse.create(
        ledger.with_name("purse"),
        usd_cap=caps.get("usd_cap"),
        votes_cap=caps.get("votes_cap"),
    )
    assert purse.reserve(usd=others_usd, votes=others_votes) == "yes"
    return purse


@pytest.mark.parametrize("after_s", [1, 100, LONGEST_WAIT_S - 1])
def test_who_is_held_up_by_anothers_reservation_waits_for_its_bill(
    ledger: Path, after_s: float
) -> None:
    with closing(in_cents(ledger, others_usd=0.9, usd_cap=0.9 + MOST_USD / 2)) as purse:

        async def bill(_task: asyncio.Task[Any]) -> None:
            await asyncio.sleep(after_s)
            purse.settle(reserved_usd=0.9, actual_usd=0.1)

        teacher = Teacher()
        asked = ask(ledger, named(20), teacher, price=PRICE, purse=purse, beside=bill)
    assert asked.error is None
    assert len(asked.labels()) == 20
    assert after_s <= teacher.sends[0][0] <= after_s + 2 * WAIT_S


def test_who_waits_learns_at_once_that_the_other_has_spent_it(ledger: Path) -> None:
    with closing(in_cents(ledger, others_usd=0.9, usd_cap=0.9 + MOST_USD / 2)) as purse:

        async def bill(_task: asyncio.Task[Any]) -> None:
            await asyncio.sleep(50)
            purse.settle(reserved_usd=0.9, actual_usd=0.9)

        teacher = Teacher()
        asked = ask(ledger, named(20), teacher, price=PRICE, purse=purse, beside=bill)
    assert isinstance(asked.error, BudgetReached)
    assert "($0.9000 of $0.900" in str(asked.error)
    assert 50 <= asked.seconds <= 51
    assert not teacher.sends


@pytest.mark.parametrize("cool_down_s", [60.0, 1000.0])
def test_nobody_waits_longer_than_another_request_may_last(
    ledger: Path, cool_down_s: float
) -> None:
    """Its process may have been killed, and will never settle."""
    longest = max(LONGEST_WAIT_S, cool_down_s)
    with closing(in_cents(ledger, others_usd=0.9, usd_cap=0.9 + MOST_USD / 2)) as purse:
        teacher = Teacher()
        asked = ask(
            ledger,
            named(20),
            teacher,
            price=PRICE,
            purse=purse,
            longest_cool_down_s=cool_down_s,
        )
        assert in_purse(ledger)["usd_reserved"] == nano(0.9)
        assert in_purse(ledger)["votes_reserved"] == 0
    assert isinstance(asked.error, BudgetReached)
    assert "($0.0000 of $0.900" in str(asked.error), "what is reserved is not spent"
    assert longest <= asked.seconds <= longest + 1
    assert not teacher.sends


def test_votes_that_others_have_reserved_are_waited_for_too(ledger: Path) -> None:
    with closing(in_cents(ledger, others_usd=0.0, others_votes=3, votes_cap=5)) as purse:

        async def ends(_task: asyncio.Task[Any]) -> None:
            for kept in (False, True, False):
                await asyncio.sleep(40)
                purse.settle_vote(kept=kept)

        asked = ask(ledger, named(20), Teacher(), purse=purse, beside=ends)
        assert in_purse(ledger)["votes"] == 5
    assert isinstance(asked.error, BudgetReached)
    assert len(asked.labels()) == 4
    assert 120 <= asked.seconds <= 122


def test_while_something_of_its_own_is_under_way_it_waits_however_long(ledger: Path) -> None:
    teacher = Teacher(takes=lambda example_id, _nth: 3 * LONGEST_WAIT_S * (example_id == "q0"))
    with purse_of(ledger, usd_cap=MOST_USD + 19 * USED_USD) as purse:
        asked = ask(ledger, named(20), teacher, price=PRICE, purse=purse)
    assert asked.error is None
    assert len(asked.labels()) == 20


def test_who_waits_for_a_paused_teacher_has_reserved_no_dollars(ledger: Path) -> None:
    """Other teachers may spend them meanwhile."""
    seen: list[int] = []

    async def stops(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(1000)
        seen.append(in_purse(ledger)["usd_reserved"])
        task.cancel()

    teacher = Teacher(lambda example_id, _nth: said() if example_id == "q0" else failed())
    with purse_of(ledger, usd_cap=1.0, votes_cap=100) as purse, suppress(asyncio.CancelledError):
        ask(ledger, named(100), teacher, price=PRICE, purse=purse, beside=stops)
    sums = in_purse(ledger)
    assert seen[0] <= nano(MOST_USD), "the probe's"
    assert (sums["usd_reserved"], sums["votes_reserved"]) == (0, 0)
    assert (sums["usd"], sums["votes"]) == (nano(USED_USD), 1)


def test_after_an_end_by_the_teacher_nothing_stays_reserved(ledger: Path) -> None:
    teacher = Teacher(lambda example_id, _nth: said() if example_id == "q0" else failed())
    with purse_of(ledger, usd_cap=1.0, votes_cap=100) as purse:
        asked = ask(ledger, named(100), teacher, price=PRICE, purse=purse, outage_s=900)
    assert isinstance(asked.error, VoteError)
    sums = in_purse(ledger)
    assert (sums["usd_reserved"], sums["votes_reserved"], sums["votes"]) == (0, 0, 1)
