"""A run's purse: exact to a billionth of a dollar, whoever takes from it, however many."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapar_core.teachers.purse import NANO, Purse, nano

ONE_NANO = 1 / NANO
TAKER = """
import json, random, sys
from pathlib import Path
from lorapar_core.teachers.purse import NANO, Purse, nano
path, seed = Path(sys.argv[1]), int(sys.argv[2])
purse, draw = Purse(path), random.Random(seed)
spent, votes, most_votes = 0, 0, 0
refused = 0
print(flush=True)
sys.stdin.readline()  # all begin together
while refused < 50:
    most = draw.randrange(1, 400) / NANO
    answer = purse.reserve(usd=most, votes=1)
    assert answer in ("yes", "later", "no")
    if answer != "yes":
        refused += answer == "no"  # "later" is no refusal: others' reservations may come to less
        continue
    sums = json.loads(path.read_bytes())
    assert sums["usd_reserved"] >= 0 <= sums["votes_reserved"], sums
    assert sums["usd"] + sums["usd_reserved"] <= sums["usd_cap"], sums
    assert sums["votes"] + sums["votes_reserved"] <= sums["votes_cap"], sums
    actual = draw.choice([0.0, draw.randrange(0, nano(most) + 1) / NANO, most])
    purse.settle(reserved_usd=most, actual_usd=actual)
    spent += nano(actual)
    kept = draw.random() >= 0.2
    purse.settle_vote(kept=kept)
    votes += kept
print(spent, votes)
"""


@contextmanager
def purse_of(
    tmp_path: Path,
    *,
    usd_cap: float | None = None,
    votes_cap: int | None = None,
    usd: float = 0.0,
    votes: int = 0,
) -> Iterator[Purse]:
    path = tmp_path / "purse"
    with closing(
        Purse.create(path, usd_cap=usd_cap, votes_cap=votes_cap, usd=usd, votes=votes)
    ) as purse:
        yield purse


def takers(path: Path, count: int) -> list[list[int]]:
    """Real processes that take until there is no more; what each says that it took."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(path), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return [[int(number) for number in line.split()] for line in told]


def test_a_reservation_is_refused_from_one_nano_dollar_over_the_cap(tmp_path: Path) -> None:
    with purse_of(tmp_path, usd_cap=0.05, usd=0.02) as purse:
        assert purse.reserve(usd=0.03 + ONE_NANO) == "no"
        assert purse.reserve(usd=0.03) == "yes"
        assert purse.reserve(usd=ONE_NANO) == "later"
        assert purse.reserve(usd=0.0) == "yes"
        purse.settle(reserved_usd=0.03, actual_usd=0.03 - 2 * ONE_NANO)
        assert purse.reserve(usd=2 * ONE_NANO) == "yes"
        assert purse.reserve(usd=ONE_NANO) == "later"
        purse.settle(reserved_usd=2 * ONE_NANO, actual_usd=2 * ONE_NANO)
        assert purse.reserve(usd=ONE_NANO) == "no"


def test_what_others_have_reserved_is_a_matter_of_waiting_and_what_they_spent_is_none(
    tmp_path: Path,
) -> None:
    with purse_of(tmp_path, usd_cap=1.0, votes_cap=2) as purse:
        assert purse.reserve(usd=0.7, votes=1) == "yes"
        assert purse.reserve(usd=0.4) == "later"
        assert purse.reserve(usd=1.1) == "no"  # nobody's reservation stands in its way
        assert purse.reserve(votes=2) == "later"
        assert purse.reserve(votes=3) == "no"
        assert purse.told() == "$0.0000 of $1 and 0 of 2 votes"  # nothing is spent
        purse.settle(reserved_usd=0.7, actual_usd=0.65)
        purse.settle_vote(kept=True)
        assert purse.reserve(usd=0.4) == "no"
        assert purse.reserve(votes=2) == "no"
        assert purse.told() == "$0.6500 of $1 and 1 of 2 votes"
        assert purse.reserve(usd=0.35, votes=1) == "yes"


def test_a_bill_above_its_reservation_is_spent_all_the_same(tmp_path: Path) -> None:
    """A provider that bills more than we thought possible is told the truth about."""
    with purse_of(tmp_path, usd_cap=1.0) as purse:
        assert purse.reserve(usd=0.5) == "yes"
        purse.settle(reserved_usd=0.5, actual_usd=1.25)
        assert purse.told() == "$1.2500 of $1"
        assert purse.reserve(usd=ONE_NANO) == "no"


@pytest.mark.parametrize("cap", [1.07, 4.23, 0.067, 8.05, 0.05, 5.0])
def test_a_cap_is_not_a_nano_dollar_more_than_it_says(tmp_path: Path, cap: float) -> None:
    """1.07 * 10**9 is 1070000000.0000001, which must not be rounded up."""
    with purse_of(tmp_path, usd_cap=cap):
        sums = json.loads((tmp_path / "purse").read_text())
    assert sums["usd_cap"] == Decimal(str(cap)) * NANO


def test_the_last_vote_is_granted_and_no_more(tmp_path: Path) -> None:
    with purse_of(tmp_path, votes_cap=5, votes=2) as purse:
        assert [purse.reserve(votes=1) for _ in range(5)] == [*["yes"] * 3, "later", "later"]
        purse.settle_vote(kept=False)
        assert [purse.reserve(votes=1) for _ in range(2)] == ["yes", "later"]
        for _ in range(3):
            purse.settle_vote(kept=True)
        assert purse.reserve(votes=1) == "no"
        assert purse.told() == "5 of 5 votes"


def test_what_is_refused_takes_nothing(tmp_path: Path) -> None:
    with purse_of(tmp_path, usd_cap=1.0, votes_cap=1) as purse:
        assert purse.reserve(usd=2.0, votes=1) == "no"
        assert purse.reserve(usd=0.1, votes=2) == "no"
        assert purse.told() == "$0.0000 of $1 and 0 of 1 votes"
        assert purse.reserve(usd=1.0, votes=1) == "yes"
        assert purse.reserve(usd=0.1, votes=1) == "later"
        purse.settle(reserved_usd=1.0, actual_usd=0.0)
        purse.settle_vote(kept=False)
        assert purse.reserve(usd=1.0, votes=1) == "yes"


def test_without_caps_there_is_no_end(tmp_path: Path) -> None:
    with purse_of(tmp_path) as purse:
        answers = {purse.reserve(usd=10**6, votes=10**6) for _ in range(100)}
        assert answers == {"yes"}
        assert purse.told() == ""


def test_it_tells_what_is_spent_of_what(tmp_path: Path) -> None:
    with purse_of(tmp_path, usd_cap=0.05, usd=0.03124) as purse:
        assert purse.told() == "$0.0312 of $0.05"
    with purse_of(tmp_path, votes_cap=1200, votes=7) as purse:
        assert purse.told() == "7 of 1200 votes"


def test_it_is_the_same_purse_for_all_who_open_it(tmp_path: Path) -> None:
    with purse_of(tmp_path, usd_cap=1.0) as mine, closing(Purse(tmp_path / "purse")) as other:
        assert mine.reserve(usd=0.6) == "yes"
        assert other.reserve(usd=0.6) == "later"
        mine.settle(reserved_usd=0.6, actual_usd=0.1)
        assert other.reserve(usd=0.6) == "yes"
        other.settle(reserved_usd=0.6, actual_usd=0.2)
        assert mine.told() == "$0.3000 of $1"


def test_sums_of_any_length_leave_the_file_readable(tmp_path: Path) -> None:
    with purse_of(tmp_path, usd_cap=10**9, votes_cap=10**12, usd=10**8, votes=10**11) as purse:
        assert purse.reserve(usd=8 * 10**8, votes=8 * 10**11) == "yes"
        assert len((tmp_path / "purse").read_bytes()) == 256
        purse.settle(reserved_usd=8 * 10**8, actual_usd=0.0)
        for _ in range(3):
            purse.settle_vote(kept=True)
        sums = json.loads((tmp_path / "purse").read_text())
    assert (sums["usd"], sums["votes"]) == (10**17, 10**11 + 3)
    assert (sums["usd_reserved"], sums["votes_reserved"]) == (0, 8 * 10**11 - 3)


@given(st.integers(0, 10**12))
def test_whole_nano_dollars_stay_what_they_are(count: int) -> None:
    assert nano(float(Decimal(count) / NANO)) in (count, count + 1)


@given(st.floats(0, 10**6))
def test_a_bill_is_never_rounded_down(usd: float) -> None:
    assert Decimal(nano(usd)) >= Decimal(usd * NANO) > Decimal(nano(usd)) - 1


def test_several_processes_spend_to_the_cap_and_never_above(tmp_path: Path) -> None:
    path = tmp_path / "purse"
    before = random.Random(1).randrange(1, 1000)
    cap, votes_cap = 0.0003, 5000
    Purse.create(path, usd_cap=cap, votes_cap=votes_cap, usd=before / NANO, votes=3).close()
    took = takers(path, 5)
    sums = json.loads(path.read_text())
    assert sums["usd"] == before + sum(usd for usd, _ in took)
    assert sums["votes"] == 3 + sum(votes for _, votes in took)
    assert sums["usd_reserved"] == sums["votes_reserved"] == 0
    assert nano(cap) - 400 < sums["usd"] <= nano(cap)
    assert all(usd for usd, _ in took)  # all of them had their part


def test_several_processes_buy_exactly_the_votes_there_are(tmp_path: Path) -> None:
    path = tmp_path / "purse"
    Purse.create(path, usd_cap=1.0, votes_cap=1500, votes=100).close()
    took = takers(path, 4)
    assert sum(votes for _, votes in took) == 1400
    assert json.loads(path.read_text())["votes"] == 1500
