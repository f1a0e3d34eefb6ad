"""The runs of one command, one after the other on one connection."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from triptych.cli.bench.serve.loops import Clock, Send, closed_loop, open_loop
from triptych.cli.bench.serve.outcome import Outcome
from triptych.cli.bench.serve.schedule import Arrival, Bound, Mix, Work, schedule, works
from triptych.cli.bench.serve.summary import Slo, Summary, summarize


@dataclass(frozen=True, slots=True)
class PoissonLoad:
    """Arrivals at random, `rate` a second on average."""

    rate: float
    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True)
class TraceLoad:
    """Arrivals as a file has them."""

    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True)
class ClosedLoad:
    """So many clients, each with one request after another, of lengths that `seed` decides."""

    clients: int
    mix: Mix
    bound: Bound
    seed: int


Load = PoissonLoad | TraceLoad | ClosedLoad


@dataclass(frozen=True, slots=True)
class Run:
    """A load, and what became of it."""

    load: Load
    outcomes: tuple[Outcome, ...]
    summary: Summary


def poisson_loads(rates: Sequence[float], mix: Mix, bound: Bound, seed: int) -> tuple[PoissonLoad, ...]:
    """One load per rate; the same seed gives the same arrivals and lengths."""
    requests = works(mix, _lengths(seed))
    return tuple(
        PoissonLoad(rate, schedule(rate, requests, bound, random.Random(f"{seed} arrivals {rate}"))) for rate in rates
    )


async def run_all(loads: Sequence[Load], send: Send, clock: Clock, slo: Slo) -> AsyncIterator[Run]:
    """Runs the loads in turn, each once the one before has ended, after one request that nobody counts.

    Raises:
        TriptychError: that first request failed.
    """
    async for _ in send(Work(-1, 16, 4)):
        pass
    for load in loads:
        outcomes = await _outcomes(load, send, clock)
        yield Run(load, outcomes, summarize(outcomes, slo))


async def _outcomes(load: Load, send: Send, clock: Clock) -> tuple[Outcome, ...]:
    match load:
        case PoissonLoad(_, arrivals) | TraceLoad(arrivals):
            return await open_loop(arrivals, send, clock)
        case ClosedLoad(clients, mix, bound, seed):
            return await closed_loop(works(mix, _lengths(seed)), clients, bound, send, clock)
        case _:
            assert_never(load)


def _lengths(seed: int) -> random.Random:
    return random.Random(f"{seed} lengths")
