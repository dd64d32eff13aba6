"""How fast a teacher is asked: buckets, concurrency, breaker. Hours pass in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from virtual_time import run, settle, virtual_time

from lorapar_core.teachers.pace import (
    CUT_EVERY_S,
    FAILURES,
    FIRST_PAUSE_S,
    GROWTH,
    LONGEST_PAUSE_S,
    Breaker,
    Bucket,
    Concurrency,
    pause_s,
)


def now() -> float:
    return asyncio.get_running_loop().time()


async def at_once(count: int, do: Callable[[], Awaitable[None]]) -> list[float]:
    """When each of so many that begin together was through."""
    ended: list[float] = []

    async def one() -> None:
        await do()
        ended.append(now())

    await asyncio.gather(*(one() for _ in range(count)))
    return ended


# Buckets.


@pytest.mark.parametrize(("per_minute", "amount"), [(60, 1), (600, 1), (3, 1), (6000, 250)])
def test_no_window_of_time_sees_more_than_the_limit_and_a_burst(
    per_minute: float, amount: float
) -> None:
    async def main() -> list[float]:
        bucket = Bucket(per_minute, virtual_time())
        return await at_once(100, lambda: bucket.take(amount))

    ended = run(main())
    assert ended == sorted(ended)  # who asked first goes first
    rate = per_minute / 60
    burst = max(1.0, rate)
    for first in range(100):
        for last in range(first, 100):
            taken = amount * (last - first)  # after the first one
            assert taken <= rate * (ended[last] - ended[first]) + burst + 1e-6
    assert ended[-1] == pytest.approx((100 * amount - burst) / rate)  # nor is it slower than that


def test_a_rest_saves_up_no_more_than_a_burst() -> None:
    async def main() -> list[float]:
        bucket = Bucket(120, virtual_time())
        await asyncio.sleep(3600)
        return await at_once(4, lambda: bucket.take(1))

    assert run(main()) == pytest.approx([3600, 3600, 3600.5, 3601])


def test_a_bucket_without_limit_never_waits() -> None:
    async def main() -> list[float]:
        bucket = Bucket(0, virtual_time())
        bucket.give_back(-(10**9))
        return await at_once(1000, lambda: bucket.take(10**9))

    assert run(main()) == [0.0] * 1000


def test_what_was_not_used_is_there_for_the_next_and_a_debt_makes_it_wait() -> None:
    async def main(back: float) -> float:
        bucket = Bucket(60, virtual_time())
        await bucket.take(11)  # waits 10 s, and is even
        bucket.give_back(back)
        began = now()
        await bucket.take(1)
        return now() - began

    assert run(main(0)) == pytest.approx(1)
    assert run(main(0.75)) == pytest.approx(0.25)
    assert run(main(-9)) == pytest.approx(10)
    assert run(main(500)) == 0


# Concurrency.


def test_no_more_than_the_limit_are_in_at_once_and_all_come_in_order() -> None:
    async def main() -> tuple[int, list[int]]:
        places = Concurrency(3, virtual_time())
        most, came = 0, []

        async def one(number: int) -> None:
            nonlocal most
            await places.enter()
            came.append(number)
            most = max(most, places.in_flight)
            await asyncio.sleep(1 + number % 3)
            places.leave()

        await asyncio.gather(*(one(number) for number in range(30)))
        assert places.in_flight == 0
        return most, came

    assert run(main()) == (3, list(range(30)))


def test_nobody_overtakes_those_who_wait() -> None:
    async def main() -> list[str]:
        places, came = Concurrency(1, virtual_time()), []

        async def one(name: str) -> None:
            await places.enter()
            came.append(name)

        await one("first")
        waiting = asyncio.create_task(one("second"))
        await settle()
        places.leave()  # the second one's turn, though it has not run yet
        late = asyncio.create_task(one("third"))
        await settle()
        places.leave()
        await asyncio.gather(waiting, late)
        return came

    assert run(main()) == ["first", "second", "third"]


def test_overloads_of_one_second_cut_the_limit_once() -> None:
    async def main() -> list[float]:
        places, limits = Concurrency(100, virtual_time()), []
        for _ in range(3):
            for _ in range(20):
                places.overloaded()
            limits.append(places.limit)
            await asyncio.sleep(CUT_EVERY_S)
        return limits

    assert run(main()) == pytest.approx([70, 49, 34.3])


def test_the_limit_falls_to_one_and_grows_back_to_its_maximum() -> None:
    async def main() -> tuple[float, int]:
        places = Concurrency(4, virtual_time())
        for _ in range(20):
            places.overloaded()
            await asyncio.sleep(CUT_EVERY_S)
        lowest = places.limit
        answers = 0
        while places.limit < 4:
            places.answered()
            answers += 1
        for _ in range(10):
            places.answered()
        assert places.limit == 4
        return lowest, answers

    assert run(main()) == (1.0, 3 / GROWTH)


def test_a_lower_limit_admits_nobody_until_enough_have_left_and_growth_wakes_who_waits() -> None:
    async def main() -> list[int]:
        places, seen = Concurrency(4, virtual_time()), []
        for _ in range(4):
            await places.enter()
        for _ in range(2):
            places.overloaded()
            await asyncio.sleep(CUT_EVERY_S)  # 4 -> 2.8 -> 1.96
        waiting = [asyncio.create_task(places.enter()) for _ in range(2)]
        for _ in range(3):
            places.leave()
            await settle()
            seen.append(sum(task.done() for task in waiting))
        places.leave()
        await settle()
        seen.append(sum(task.done() for task in waiting))
        places.answered()  # 2.21: there is room for the other one
        await settle()
        seen.append(sum(task.done() for task in waiting))
        return seen

    assert run(main()) == [0, 0, 0, 1, 2]


# The breaker.


def fails(
    breaker: Breaker, example_id: str = "q", *, probe: bool = False, retry_after_s: float = 0.0
) -> None:
    breaker.failed("500", example_id, probe=probe, retry_after_s=retry_after_s)


def opened(*, longest_s: float = 60.0, retry_after_s: float = 0.0) -> Breaker:
    breaker = Breaker("far", virtual_time(), longest_s=longest_s)
    for k in range(FAILURES):
        assert not breaker.is_open()
        fails(breaker, f"q{k}", retry_after_s=retry_after_s)
    assert breaker.is_open()
    return breaker


def test_an_answer_among_the_failures_keeps_it_closed() -> None:
    async def main() -> bool:
        breaker = Breaker("far", virtual_time())
        for k in range(10 * FAILURES):
            fails(breaker, f"q{k}")
            assert not breaker.is_open()
            if k % (FAILURES - 1) == 0:
                breaker.answered()
        return await breaker.wait()

    assert run(main()) is False


@pytest.mark.parametrize("examples", [1, 4, 5, 20])
def test_so_many_failures_in_a_row_open_it_whichever_examples_they_are_of(examples: int) -> None:
    async def main() -> int:
        breaker = Breaker("far", virtual_time())
        for k in range(20 * FAILURES):
            fails(breaker, f"q{k % examples}")
            if breaker.is_open():
                return k + 1
        return 0

    assert run(main()) == FAILURES


def test_it_counts_the_examples_that_it_failed_on_since_the_last_answer() -> None:
    async def main() -> list[int]:
        breaker, seen = Breaker("far", virtual_time()), []
        for k in range(2 * FAILURES):
            fails(breaker, f"q{k % 4}", probe=breaker.is_open())
            seen.append(breaker.failed_on)
        breaker.answered()
        seen.append(breaker.failed_on)
        fails(breaker, "q3")
        fails(breaker, "q3")
        return [*seen, breaker.failed_on]

    assert run(main()) == [1, 2, 3, *[4] * (2 * FAILURES - 3), 0, 1]


def test_while_it_is_open_one_probe_goes_out_at_a_time_ever_less_often() -> None:
    async def main() -> list[float]:
        breaker, probes, at_once = opened(), [], 0

        async def work() -> None:
            nonlocal at_once
            while await breaker.wait():
                probes.append(now())
                at_once += 1
                assert at_once == 1
                await asyncio.sleep(0.1)
                at_once -= 1
                if now() > 3600:
                    breaker.answered()
                else:
                    fails(breaker, probe=True)

        await asyncio.gather(*(work() for _ in range(20)))
        return probes

    probes = run(main())
    gaps = [later - former - 0.1 for former, later in pairwise(probes)]
    for gap, planned in zip(gaps, [2, 4, 8, 16, 32, *[60] * len(gaps)], strict=False):
        assert planned - 1e-6 <= gap <= planned * 1.2 + 1e-6
    assert 1 <= probes[0] <= 1.2
    assert 50 < len(probes) < 70


def test_an_answer_lets_all_go_that_wait() -> None:
    async def main() -> list[float]:
        breaker = opened()
        times: list[float] = []

        async def work() -> None:
            if await breaker.wait():
                breaker.answered()
            times.append(now())

        await asyncio.gather(*(work() for _ in range(10)))
        return times

    times = run(main())
    assert len(times) == 10
    assert set(times) == {times[0]}
    assert times[0] >= 1


def test_the_answer_to_an_earlier_request_closes_it_and_the_probe_is_spared() -> None:
    async def main() -> list[bool]:
        breaker = opened()
        waiting = [asyncio.create_task(breaker.wait()) for _ in range(3)]
        await settle()
        breaker.answered()
        return list(await asyncio.gather(*waiting))

    assert run(main()) == [False, False, False]


@pytest.mark.parametrize("as_probe", [False, True])
def test_no_probe_is_sent_before_the_provider_asked_for(as_probe: bool) -> None:
    async def main() -> float:
        breaker = opened(retry_after_s=0 if as_probe else 90)
        if as_probe:
            assert await breaker.wait()
            fails(breaker, probe=True, retry_after_s=90)
        began = now()
        assert await breaker.wait()
        return now() - began

    for _ in range(20):
        assert 90 <= run(main()) <= 90 * 1.2


def test_a_cancelled_probe_leaves_its_place_to_another() -> None:
    async def main() -> list[bool]:
        breaker = opened()
        probe, *others = [asyncio.create_task(breaker.wait()) for _ in range(3)]
        await settle()
        probe.cancel()
        ended, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        breaker.answered()
        await asyncio.gather(*others)
        return [task.result() for task in ended]

    assert run(main()) == [True]


def test_its_clock_stands_still_while_it_is_open() -> None:
    async def main() -> list[float]:
        breaker = Breaker("far", virtual_time())
        read = []
        for _ in range(2):
            await asyncio.sleep(10)
            for _ in range(FAILURES):
                fails(breaker)
            await asyncio.sleep(3600)
            read += [breaker.closed_s(), breaker.silent_s]
            breaker.answered()
            assert breaker.silent_s == 0
        return [*read, breaker.closed_s()]

    assert run(main()) == pytest.approx([10, 3600, 20, 3600, 20])


def test_pauses_double_to_a_limit_and_spread_out() -> None:
    for failures in range(1, 30):
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1))
        pauses = {pause_s(failures) for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
