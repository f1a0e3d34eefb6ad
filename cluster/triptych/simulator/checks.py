"""What must never happen, looked at when it could: each check counts, the first violation ends the run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from triptych.core.desk import Entry
from triptych.core.errors import Cancelled, DeadlineExceeded, Internal, ResourceExhausted, TriptychError
from triptych.core.fleet.worker import Health
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.request.record import MAX_ATTEMPTS
from triptych.simulator.words import name

if TYPE_CHECKING:
    from triptych.simulator import messages as msg
    from triptych.simulator.client import Client
    from triptych.simulator.decoder import Decoder
    from triptych.simulator.machine import Machine
    from triptych.simulator.router import Router
    from triptych.simulator.worker import Worker
    from triptych.simulator.world import World


class Violation(Exception):
    """An invariant does not hold.

    Args:
        invariant: Its name.
        detail: What was seen.
        time: Seconds since the run began.
    """

    def __init__(self, invariant: str, detail: str, time: float) -> None:
        super().__init__(f"{invariant}: {detail} (at {time:.4f} s)")
        self.invariant = invariant
        self.detail = detail
        self.time = time


class Checks:
    """The invariants that are looked at when something happens.

    Args:
        world: What is watched.
    """

    def __init__(self, world: World) -> None:
        self.counts: Counter[str] = Counter()
        self._world = world
        self._freed: set[tuple[str, str, OperationKey]] = set()
        self._dispatched: set[OperationKey] = set()
        self._progress: dict[
            tuple[str, str, int], tuple[int, int]
        ] = {}  # tokens, attempts since without a further one

    def require(self, invariant: str, holds: bool, detail: str) -> None:
        """Counts a look.

        Raises:
            Violation: it does not hold.
        """
        self.counts[invariant] += 1
        if not holds:
            raise Violation(invariant, detail, self._world.agenda.now)

    def said(self, client: Client, tokens: tuple[int, ...]) -> None:
        """Tokens have come to a client."""
        end = len(client.received)
        expected = client.wish.answer[end - len(tokens) : end]
        detail = f"{client.name} got {list(tokens)} as tokens {end - len(tokens)} to {end - 1}, not {list(expected)}"
        self.require("same tokens", tokens == expected, detail)

    def ended(self, client: Client, outcome: FinishReason | TriptychError) -> None:
        """A client has its end."""
        self.require("one end", client.outcome is None, f"{client.name} ended twice")
        if isinstance(outcome, FinishReason):
            whole = len(client.received) == len(client.wish.answer)
            detail = f"{client.name} got {len(client.received)} of {len(client.wish.answer)} tokens and an end"
            self.require("whole answers", whole, detail)
            return
        self.require("no defects", not isinstance(outcome, Internal), f"{client.name} failed: {outcome}")
        match outcome:
            case DeadlineExceeded():
                timeout = client.wish.ask.timeout
                legitimate = timeout is not None and self._world.agenda.now >= client.started + timeout * 0.9
            case Cancelled():
                legitimate = client.wish.whim.value != "stays"
            case _:
                legitimate = outcome.transient or isinstance(outcome, ResourceExhausted)
        self.require("honest failures", legitimate, f"{client.name} failed: {type(outcome).__name__}, {outcome}")

    def freed(self, router: Router, worker_id: str, key: OperationKey) -> None:
        """A router sends a Free."""
        free = (router.router_id, worker_id, key)
        self.require("one Free", free not in self._freed, f"{worker_id} is sent a second Free of {name(key)}")
        self._freed.add(free)

    def commanded(
        self, router: Router, entry: Entry, worker_id: str, message: msg.Encode | msg.Reserve | msg.Prefill
    ) -> None:
        """A router sends work: an attempt begins with workers that accept some."""
        if message.key in self._dispatched:
            return
        self._dispatched.add(message.key)
        worker = router.desk.fleet.workers.get(worker_id)
        health = worker.health if worker else Health.DEAD
        if worker_id in router.drained:
            health = Health.DRAINING
        detail = f"{name(message.key)} is given to {worker_id}, which is {health}"
        self.require("work for the healthy", health is Health.HEALTHY, detail)
        serial = (router.router_id, message.key.request_id, message.key.epoch // MAX_ATTEMPTS)
        emitted, vain = self._progress.get(serial, (entry.record.emitted, -1))
        vain = vain + 1 if emitted == entry.record.emitted else 0
        self._progress[serial] = (entry.record.emitted, vain)
        allowed = entry.record.terms.max_failures
        allowed += self._world.injected["drain"] + self._world.injected["scale"]  # to be moved costs nothing
        self.require("retry budget", vain <= allowed, f"{name(message.key)} is one attempt in vain too many")

    def told(self, worker: Worker, message: msg.ToRouter) -> None:
        """A worker answers."""
        error = getattr(message, "error", None)
        self.require("no defects", not isinstance(error, Internal), f"{worker.name}: {error}")

    def writes(self, machine: Machine, decoder: Decoder, ticket_id: str, blocks: tuple[int, ...]) -> None:
        """Somebody's KV is written into a worker's memory."""
        key = decoder.receiver.owner(ticket_id)
        sequence = decoder.engine.sequences.get(key) if key else None
        theirs = sequence is not None and set(blocks) <= set(sequence.blocks)
        detail = f"ticket {ticket_id} writes blocks {list(blocks)} of {machine.name}, which are not its own"
        self.require("no stray writes", theirs, detail)

    def expired(self, machine: Machine, ticket_id: str, heartbeat: float | None, lease: float) -> None:
        """A lease has ended by itself; `heartbeat` is when its router was last heard by the ledger's clock."""
        renewed = heartbeat is not None and heartbeat > machine.now - lease
        self.require("leases live", not renewed, f"the lease of {ticket_id} ended although its router was heard")

    def computed_in_time(self, worker: Worker, key: OperationKey, deadline: float | None, started: float) -> None:
        """A worker has begun to compute something at `started`."""
        if deadline is not None:
            late = f"{worker.name} computes {name(key)} {started - deadline:.3f} s after its deadline"
            self.require("deadlines reach workers", started < deadline, late)
