"""The requests of a desk: each event to its record, each action to the books."""

from typing import assert_never

from triptych.core.desk.entry import Counters, Entry, Submission
from triptych.core.desk.orders import Orders, Perform
from triptych.core.errors import Cancelled, TriptychError
from triptych.core.fleet import observe as seen
from triptych.core.fleet.book import FleetBook
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.plan import Plan, RoutingPolicy
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.load import load_of
from triptych.core.request.record import ATTEMPT_BITS, Gone, accepted
from triptych.core.request.states import Encoding, Prefilling, Queued, Reserving
from triptych.core.request.step import needed, step
from triptych.core.routing import Wanted, choose, wanted

EPOCHS = 2**32  # what the wire tells apart


class Requests:
    """Entries by id and by serial, and the line of those that wait for workers.

    Args:
        fleet: Where their load is booked.
        policy: Limits of the routing rule.
        first_serial: Of the first request.

    Attributes:
        by_id: Requests whose client listens or may come back.
        by_serial: Those, and ended ones for which a worker still holds something.
        waiting: Requests without workers, longest waiting first.
        room: Whether somebody may have found room since the line was last served.
    """

    def __init__(self, fleet: FleetBook, policy: RoutingPolicy, first_serial: int) -> None:
        self.counters = Counters()
        self.by_id: dict[str, Entry] = {}
        self.by_serial: dict[tuple[str, int], Entry] = {}
        self.waiting: dict[Entry, None] = {}
        self.room = False
        self._fleet = fleet
        self._policy = policy
        self._next_serial = first_serial

    def accept(self, submission: Submission, now: float) -> Entry:
        """Takes a request in."""
        received = submission.received or ()
        self.counters.resumed += submission.received is not None
        key = OperationKey(submission.request_id, (self._next_serial << ATTEMPT_BITS) % EPOCHS)
        self._next_serial += 1
        record = accepted(key, submission.terms, now, emitted=len(received))
        entry = Entry(record, submission.demand, submission.digest, [GeneratedToken(token) for token in received])
        self.by_id[entry.request_id] = self.by_serial[entry.serial] = entry
        return entry

    def apply(self, entry: Entry, event: ev.Event, now: float, orders: Orders) -> None:
        """One event of one request; what is to be done is appended to `orders`."""
        before = entry.record
        record, actions = step(before, event, now)
        if record is before:
            return
        entry.record = record
        if record.state is not before.state or record.freeing is not before.freeing:
            load = load_of(record, entry.demand)
            self._fleet.rebook(entry.load, load)
            entry.load = load
            self.room = self.room or not isinstance(record.state, Encoding | Reserving | Prefilling)
        for action in actions:
            self._order(entry, action, now, orders)
        self._retire(entry)

    def queue(self, entry: Entry) -> None:
        """Has a request wait for its workers, behind those that do already."""
        self.waiting[entry] = None
        self.room = True

    def settle(self, now: float, orders: Orders) -> None:
        """After an event: serves the line, if somebody in it may have found room."""
        if self.room:
            self.serve_line(now, orders)

    def serve_line(self, now: float, orders: Orders) -> None:
        """Gives workers to those that wait, in their order, as far as there is room.

        Who finds none is asked for no further request that wants the same: a long line costs as much as a short one.
        """
        self.room = False
        if not self.waiting:
            return
        fleet = self._fleet.snapshot(now)
        hopeless: set[Wanted] = set()
        for entry in list(self.waiting):
            state, avoid = entry.record.state, entry.record.past.avoid
            want = wanted(entry.demand, self._policy, avoid)
            if want in hopeless or not isinstance(state, Queued) or state.not_before > now:
                continue
            plan = choose(entry.demand, fleet, self._policy, avoid)
            if isinstance(plan, Plan):
                del self.waiting[entry]
                self.apply(entry, ev.Dispatched(plan), now, orders)
                fleet = self._fleet.snapshot(now)
            else:
                hopeless.add(want)

    def move_away(self, worker_id: str, now: float, orders: Orders) -> None:
        """Has requests go on elsewhere that need a drained worker; who finds no room there stays where it is."""
        for entry in list(self.by_id.values()):
            if worker_id in needed(entry.record):
                fleet = self._fleet.snapshot(now)
                if not isinstance(choose(entry.demand, fleet, self._policy, entry.record.past.avoid), Plan):
                    continue
            self.apply(entry, ev.WorkerDrained(worker_id), now, orders)
            self.settle(now, orders)

    def _order(self, entry: Entry, action: do.Action, now: float, orders: Orders) -> None:
        orders.append(Perform(entry, action))
        match action:
            case do.Place():
                self.counters.replays += 1
                self.queue(entry)
            case do.Deliver(tokens):
                entry.answer += tokens
                self.counters.generated_tokens += len(tokens)
            case do.SendEncode(worker_id) | do.SendReserve(worker_id):
                self._fleet.observe(worker_id, seen.WorkSent(), now)
            case do.SendPrefill(worker_id, _, emitted):
                self._fleet.observe(worker_id, seen.WorkSent(), now)
                if entry.record.past.replays:
                    self.counters.replayed_tokens += entry.demand.prompt_tokens + emitted
            case do.End(outcome):
                self._count(outcome)
            case _:
                pass

    def _retire(self, entry: Entry) -> None:
        if entry.running:
            return
        self.waiting.pop(entry, None)
        if isinstance(entry.record.client, Gone) and self.by_id.get(entry.request_id) is entry:
            del self.by_id[entry.request_id]
        if entry.record.closed:
            self.by_serial.pop(entry.serial, None)

    def _count(self, outcome: FinishReason | TriptychError) -> None:
        match outcome:
            case Cancelled():
                self.counters.cancelled += 1
            case TriptychError():
                self.counters.failed += 1
            case FinishReason():
                self.counters.finished += 1
            case _:
                assert_never(outcome)
