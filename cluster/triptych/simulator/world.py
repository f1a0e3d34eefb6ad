"""One run: everything there is, from the start of the cluster until nothing is left to happen."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator

from triptych.core.fleet.stage import Stage
from triptych.simulator import faults
from triptych.simulator.agenda import Agenda
from triptych.simulator.checks import Checks, Violation
from triptych.simulator.client import Client
from triptych.simulator.clock import NodeClock
from triptych.simulator.controller import Controller
from triptych.simulator.dice import Dice
from triptych.simulator.invariants import ALWAYS, FINALLY, Invariant
from triptych.simulator.line import LineWatch
from triptych.simulator.mischief import Mischief
from triptych.simulator.network import Network
from triptych.simulator.router import Router
from triptych.simulator.runtime import Runtime
from triptych.simulator.scenario import Scenario
from triptych.simulator.transcript import Transcript
from triptych.simulator.troubles import Troubles
from triptych.simulator.wishes import draw
from triptych.simulator.worker import Worker

LOOK_EVERY = 64
"""Events between two looks at the invariants that hold always."""

AFTERMATH = 3.0
"""Seconds after the last arrival in which faults still happen."""

PATIENCE = 600.0
"""Seconds after which a run that has not come to rest is stuck."""

REST_EVERY = 0.5

HEALING = 12.0
"""Seconds until a loss is noticed by its silence, and what was lost is begun anew; a worker's start comes on top."""


class World:
    """A simulated cluster with its clients.

    Args:
        spec: The scenario.
        seed: Of everything random.
        transcript: Whether to keep one.
    """

    def __init__(self, spec: Scenario, seed: int, *, transcript: bool = False) -> None:
        self.spec = spec
        self.dice = Dice(seed)
        self.agenda = Agenda()
        self.transcript = Transcript(self.agenda, on=transcript)
        self.injected: Counter[str] = Counter()
        self.troubles = Troubles(self.agenda, spec.costs.start + HEALING)
        self.overtaken = 0
        self.line = LineWatch(spec.cluster.colocate_below_tokens)
        self.check = Checks(self)
        self.network = Network(self.agenda, spec.network, spec.faults.messages, self.dice.stream("network"))
        self.wishes = draw(spec, self.dice)
        self._begin = spec.costs.start + 1.0
        self.trouble_ends = self._begin + max(wish.arrives for wish in self.wishes) + AFTERMATH
        self.network.faulty_until = self.trouble_ends
        self.mischief = Mischief(
            spec.faults, self.dice.stream("transfers"), lambda: self.agenda.now < self.trouble_ends
        )
        self.clients: list[Client] = []
        self.routers: list[Router] = []
        self.router: Router | None = None
        self.controller: Controller | None = None
        alone = not spec.cluster.counts.encode
        self.runtime = Runtime(self, frozenset({Stage.DECODE if alone else Stage.ENCODE}))
        self._abilities = _abilities(alone)
        self._serials = self.dice.stream("serials")
        self._clocks: dict[str, NodeClock] = {}

    @property
    def resumed(self) -> int:
        """How often clients came back."""
        return sum(client.resumes for client in self.clients)

    def misfortunes(self) -> Counter[str]:
        """Everything that went wrong by design, by kind."""
        return self.injected + self.network.mishaps + self.mischief.counts

    def clock(self, machine: str) -> NodeClock:
        """A machine's clock; it goes on when a process ends."""
        if machine not in self._clocks:
            skew, random = self.spec.faults.clock_skew, self.dice.stream(f"clock {machine}")
            offset, rate = random.uniform(0, 1e5), 1 + random.uniform(-skew, skew)
            if skew:
                self.injected["clock skew"] += 1
            self._clocks[machine] = NodeClock(self.agenda, offset, rate)
        return self._clocks[machine]

    def process(self, worker_id: str, incarnation: str) -> Worker | None:
        """That process, if it lives."""
        return next((w for w in self.runtime.living if w.incarnation == incarnation and w.name == worker_id), None)

    def start_router(self) -> None:
        """A new router's process."""
        self.router = Router(f"router-{len(self.routers)}", self._serials.getrandbits(24), self)
        self.routers.append(self.router)
        if self.controller:
            self.controller.attach()

    def end_router(self) -> None:
        """Kills the router."""
        if self.router:
            self.router.die()
            self.router = None

    def start_controller(self) -> None:
        """A new controller's process."""
        self.controller = Controller(self, self.runtime, self._abilities)
        self.controller.publish()

    def end_controller(self) -> None:
        """Kills the controller."""
        if self.controller:
            self.controller.die()
            self.controller = None

    def run(self) -> Violation | None:
        """From beginning to end; what was violated first, if anything."""
        try:
            self._run()
        except Violation as violation:
            return violation
        return None

    def remains(self) -> Iterator[str]:
        """What somebody still holds."""
        for worker in self.runtime.living:
            if worker.decoder:
                yield from worker.decoder.remains()
            if worker.encoder:
                yield from worker.encoder.remains()
        if self.router and not self.router.desk.audit().empty:
            audit = self.router.desk.audit()
            yield f"the router: {audit.running} running, {audit.ended} ended, {list(audit.holdings)}, {audit.booked}"

    def _run(self) -> None:
        self.start_controller()
        self.start_router()
        for wish in self.wishes:
            client = Client(wish, self)
            self.clients.append(client)
            self.agenda.at(self._begin + wish.arrives, client.start)
        for fault in faults.plan(self.spec.faults, self.dice, self._begin, self.trouble_ends):
            self.agenda.at(fault.time, lambda fault=fault: faults.strike(self, fault))  # type: ignore[misc]
        agenda = self.agenda
        rest = self.trouble_ends
        while agenda.now < PATIENCE:
            self._advance()
            if agenda.events % LOOK_EVERY == 0:
                self._look(ALWAYS)
            if agenda.now >= rest:
                rest = agenda.now + REST_EVERY
                if self._at_rest():
                    break
        self._look(ALWAYS)
        self._look(FINALLY)

    def _advance(self) -> None:
        try:
            self.agenda.advance()
        except Violation:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno} of {where.filename})"
            raise Violation("no defects", what, self.agenda.now) from error

    def _at_rest(self) -> bool:
        ended = all(client.outcome is not None for client in self.clients)
        converged = self.controller is not None and next(self.controller.unsettled(), None) is None
        return ended and converged and next(self.remains(), None) is None

    def _look(self, invariants: tuple[Invariant, ...]) -> None:
        for invariant in invariants:
            problem = next(invariant.problems(self), None)
            self.check.require(invariant.name, problem is None, problem or "")


def _abilities(alone: bool) -> dict[Stage, frozenset[Stage]]:
    decode = frozenset({Stage.PREFILL, Stage.DECODE}) | frozenset({Stage.ENCODE} if alone else ())
    able = {Stage.PREFILL: frozenset({Stage.PREFILL}), Stage.DECODE: decode}
    return able if alone else {Stage.ENCODE: frozenset({Stage.ENCODE}), **able}
