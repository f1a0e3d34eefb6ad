"""What came of one run, and of many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from triptych.core.errors import Cancelled, DeadlineExceeded, TriptychError
from triptych.core.generation import FinishReason
from triptych.simulator.checks import Violation
from triptych.simulator.client import Client
from triptych.simulator.scenario import Scenario
from triptych.simulator.world import World


@dataclass(slots=True)
class Totals:
    """Sums over runs.

    Attributes:
        checks: Looks at each invariant.
        violations: Of each invariant.
        requests: By outcome.
        injected: Misfortunes by kind.
        seconds: Of virtual time.
        computed_tokens: Rows that engines computed: prompts, answers, and both again after a loss.
        needed_tokens: Rows of the requests that finished, had nothing ever happened and no cache helped.
        longest_silence: Seconds that a client heard nothing.
        longest_wait: Seconds of those in which nothing was wrong.
    """

    runs: int = 0
    events: int = 0
    messages: int = 0
    seconds: float = 0.0
    replays: int = 0
    replayed_tokens: int = 0
    resumes: int = 0
    preemptions: int = 0
    computed_tokens: int = 0
    needed_tokens: int = 0
    longest_silence: float = 0.0
    longest_wait: float = 0.0
    checks: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    first: tuple[int, str, str] | None = None
    """Seed, invariant and detail of the first violation."""

    def add(self, other: Totals) -> None:
        """Adds the totals of other runs."""
        for name in ("runs", "events", "messages", "seconds", "replays", "replayed_tokens", "resumes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("preemptions", "computed_tokens", "needed_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_silence = max(self.longest_silence, other.longest_silence)
        self.longest_wait = max(self.longest_wait, other.longest_wait)
        for mine, theirs in (
            (self.checks, other.checks),
            (self.violations, other.violations),
            (self.requests, other.requests),
            (self.injected, other.injected),
        ):
            mine.update(theirs)
        if other.first and (self.first is None or other.first[0] < self.first[0]):
            self.first = other.first


def simulate(spec: Scenario, seed: int) -> Totals:
    """One run."""
    world = World(spec, seed)
    violation = world.run()
    return totals(world, seed, violation)


def totals(world: World, seed: int, violation: Violation | None) -> Totals:
    """What came of a run that is over."""
    engines = [worker.decoder.engine for worker in world.runtime.all if worker.decoder]
    counters = [router.desk.counters for router in world.routers]
    finished = [client for client in world.clients if isinstance(client.outcome, FinishReason)]
    result = Totals(
        runs=1,
        events=world.agenda.events,
        messages=world.network.messages,
        seconds=world.agenda.now,
        replays=sum(c.replays for c in counters),
        replayed_tokens=sum(c.replayed_tokens for c in counters),
        resumes=sum(client.resumes for client in world.clients),
        preemptions=sum(engine.preemptions for engine in engines),
        computed_tokens=sum(engine.computed_tokens for engine in engines),
        needed_tokens=sum(len(c.wish.ask.prompt.token_ids) + len(c.received) - 1 for c in finished),
        longest_silence=max((client.longest_silence for client in world.clients), default=0.0),
        longest_wait=max((client.longest_wait for client in world.clients), default=0.0),
        checks=Counter(world.check.counts),
        requests=Counter(outcome_of(client) for client in world.clients),
        injected=Counter({str(kind): count for kind, count in world.misfortunes().items()}),
    )
    if violation:
        result.violations[violation.invariant] += 1
        result.first = (seed, violation.invariant, f"{violation.detail} (at {violation.time:.4f} s)")
    return result


def outcome_of(client: Client) -> str:
    """How a request ended, in a word or two."""
    match client.outcome:
        case FinishReason():
            return "finished"
        case None:
            return "not ended"
        case Cancelled():
            return "given up by its client"
        case DeadlineExceeded():
            return "past its deadline"
        case TriptychError() if client.refused:
            return "refused"
        case _:
            return "failed"
