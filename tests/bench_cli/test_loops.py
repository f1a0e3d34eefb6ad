"""Both loops with a clock that moves when somebody waits for it, and clusters that answer when they are told to."""

import asyncio
import random
from collections.abc import AsyncIterator

from triptych.cli.bench.serve.lengths import Fixed
from triptych.cli.bench.serve.loops import closed_loop, open_loop
from triptych.cli.bench.serve.outcome import Message
from triptych.cli.bench.serve.schedule import Arrival, Bound, Mix, Work, works
from triptych.core.errors import ResourceExhausted

MIX = Mix(Fixed(8), Fixed(3), Fixed(0))


class FakeClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    async def sleep_until(self, when: float) -> None:
        await asyncio.sleep(0)  # those who were started begin
        self.time = max(self.time, when)


async def test_a_late_answer_never_delays_the_next_arrival() -> None:
    clock, release, asked = FakeClock(), asyncio.Event(), 0

    async def silent_until_all_have_asked(work: Work) -> AsyncIterator[int]:
        nonlocal asked
        asked += 1
        if asked == 20:
            release.set()
        await release.wait()
        yield work.output_tokens

    arrivals = [Arrival(0.25 * n, Work(n, 8, 3)) for n in range(20)]
    outcomes = await open_loop(arrivals, silent_until_all_have_asked, clock)
    assert [outcome.due for outcome in outcomes] == [arrival.due for arrival in arrivals]
    assert [outcome.sent for outcome in outcomes] == [arrival.due for arrival in arrivals]
    assert {outcome.ended for outcome in outcomes} == {19 * 0.25}
    assert all(outcome.first_token == 19 * 0.25 - outcome.due for outcome in outcomes)


async def test_messages_are_timed_and_errors_end_one_request() -> None:
    clock = FakeClock()

    async def answers(work: Work) -> AsyncIterator[int]:
        for tokens in (1, 2):
            clock.time += 0.5
            yield tokens
        if work.number == 1:
            raise ResourceExhausted("the queue is full")

    outcomes = await open_loop([Arrival(0.0, Work(0, 8, 3)), Arrival(2.0, Work(1, 8, 3))], answers, clock)
    first, second = outcomes
    assert first.messages == (Message(0.5, 1), Message(1.0, 2))
    assert (first.error, first.ended, first.answered) == (None, 1.0, True)
    assert (second.error, second.tokens, second.answered) == ("ResourceExhausted", 3, False)


async def test_latency_counts_from_when_a_request_was_due() -> None:
    clock = FakeClock()

    async def blocks_the_client(work: Work) -> AsyncIterator[int]:
        clock.time += 3.0
        yield 1

    arrivals = [Arrival(0.0, Work(0, 8, 3)), Arrival(1.0, Work(1, 8, 3)), Arrival(1.5, Work(2, 8, 3))]
    outcomes = await open_loop(arrivals, blocks_the_client, clock)
    assert [outcome.sent for outcome in outcomes] == [0.0, 3.0, 6.0]
    assert [outcome.first_token for outcome in outcomes] == [3.0, 5.0, 7.5]


async def test_a_closed_loop_keeps_its_clients_busy_and_no_more(seed: int) -> None:
    clock, running, most, numbers = FakeClock(), 0, 0, []

    async def answers(work: Work) -> AsyncIterator[int]:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        numbers.append(work.number)
        await asyncio.sleep(0)
        yield work.output_tokens
        running -= 1

    outcomes = await closed_loop(works(MIX, random.Random(seed)), 4, Bound(30, None), answers, clock)
    assert (len(outcomes), most) == (30, 4)
    assert sorted(numbers) == list(range(30))
    assert all(outcome.due == outcome.sent for outcome in outcomes)


async def test_a_closed_loop_begins_nothing_after_its_seconds(seed: int) -> None:
    clock = FakeClock()

    async def answers(work: Work) -> AsyncIterator[int]:
        clock.time += 1.0
        yield work.output_tokens

    outcomes = await closed_loop(works(MIX, random.Random(seed)), 1, Bound(None, 3.5), answers, clock)
    assert [outcome.due for outcome in outcomes] == [0.0, 1.0, 2.0, 3.0]
