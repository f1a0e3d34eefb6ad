"""Sends requests and times them: open loop at given times, closed loop one after another."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from triptych.cli.bench.serve.outcome import Message, Outcome
from triptych.cli.bench.serve.schedule import Arrival, Bound, Work
from triptych.core.errors import TriptychError

Send = Callable[[Work], AsyncIterator[int]]
"""Asks a cluster; yields the number of tokens of each message as it arrives, and raises a TriptychError."""


class Clock(Protocol):
    """Seconds since some moment, and a way to wait."""

    def now(self) -> float:
        """Seconds."""

    async def sleep_until(self, when: float) -> None:
        """Returns at that time, at once if it is past."""


class SystemClock:
    """Monotonic time."""

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    async def sleep_until(self, when: float) -> None:
        """Returns at that time, at once if it is past."""
        await asyncio.sleep(max(0.0, when - time.perf_counter()))


async def open_loop(arrivals: Sequence[Arrival], send: Send, clock: Clock) -> tuple[Outcome, ...]:
    """Sends each request when it is due, whatever has become of those before it.

    Returns:
        The outcomes, in the order of the arrivals, once every request has ended.
    """
    begin = clock.now()
    tasks: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            await clock.sleep_until(begin + arrival.due)
            tasks.append(group.create_task(_timed(arrival.work, arrival.due, begin, send, clock)))
    return tuple(task.result() for task in tasks)


async def closed_loop(
    requests: Iterator[Work], clients: int, bound: Bound, send: Send, clock: Clock
) -> tuple[Outcome, ...]:
    """Keeps `clients` requests running: whoever has its answer sends the next one.

    Args:
        requests: What they ask for; as many are taken as the bound allows.
        clients: How many at once.
        bound: No request begins beyond it.
        send: Asks the cluster.
        clock: The time.

    Returns:
        The outcomes, in the order in which they ended.
    """
    begin = clock.now()
    outcomes: list[Outcome] = []
    begun = 0

    async def client() -> None:
        nonlocal begun
        while bound.requests is None or begun < bound.requests:
            due = clock.now() - begin
            if bound.seconds is not None and due >= bound.seconds:
                return
            begun += 1
            outcomes.append(await _timed(next(requests), due, begin, send, clock))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return tuple(outcomes)


async def _timed(work: Work, due: float, begin: float, send: Send, clock: Clock) -> Outcome:
    sent = clock.now() - begin
    messages: list[Message] = []
    error: str | None = None
    try:
        async for tokens in send(work):
            messages.append(Message(clock.now() - begin, tokens))
    except TriptychError as failure:
        error = type(failure).__name__
    return Outcome(due, sent, tuple(messages), clock.now() - begin, error)
