"""Every request of one router, and the workers it knows. No socket, no clock: events and times in, orders out.

The router's event loop and the simulator drive this same object.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple, assert_never

from triptych.core.desk.admission import matching, refusal
from triptych.core.desk.audit import Audit, audit
from triptych.core.desk.entry import Counters, Entry, Submission
from triptych.core.desk.orders import Cut, Orders, TellDrain
from triptych.core.desk.requests import Requests
from triptych.core.errors import Internal
from triptych.core.fleet import observe as seen
from triptych.core.fleet.book import FleetBook
from triptych.core.fleet.observe import HealthLimits
from triptych.core.fleet.worker import Introduction, Report
from triptych.core.generation import OperationKey
from triptych.core.plan import RoutingPolicy
from triptych.core.request import events as ev
from triptych.core.request.record import ATTEMPT_BITS, Record, wakeup
from triptych.core.request.states import Prefilling
from triptych.core.request.step import needed

STANDSTILL = 1.0  # seconds between two ticks from which on the router may have left messages unread
CATCH_UP = 3.0  # seconds that it then takes to read them, a heartbeat's interval included


class Drain(NamedTuple):
    """A process that is being taken out; at `until` what still runs there is moved.

    `incarnation` is empty while none has been seen: then it is the first that comes.
    """

    incarnation: str
    until: float


class Desk:
    """Owns requests from their acceptance until nobody holds anything for them.

    Args:
        policy: Limits of the routing rule.
        limits: When workers are given up.
        first_serial: Tells this desk's requests from those that an earlier router has made under the same ids.
    """

    def __init__(self, policy: RoutingPolicy, limits: HealthLimits, first_serial: int = 0) -> None:
        self.fleet = FleetBook(limits)
        self._policy = policy
        self._requests = Requests(self.fleet, policy, first_serial)
        self._drains: dict[str, Drain] = {}  # by worker
        self._ticked = math.inf
        self._judging = -math.inf  # when silence counts again after a standstill of the router

    @property
    def counters(self) -> Counters:
        """Totals since the desk was opened."""
        return self._requests.counters

    @property
    def running(self) -> int:
        """Requests that hold a place: running ones, and answers that are kept for their client."""
        return len(self._requests.by_id)

    @property
    def awaiting_free(self) -> int:
        """Ended requests of which a worker has not acknowledged Free."""
        return len(self._requests.by_serial) - len(self._requests.by_id)

    @property
    def waiting(self) -> int:
        """Requests that lost their workers and have no others yet."""
        return len(self._requests.waiting)

    def find(self, key: OperationKey) -> Entry | None:
        """The request of an operation, whichever its attempt."""
        return self._requests.by_serial.get((key.request_id, key.epoch >> ATTEMPT_BITS))

    def named(self, request_id: str) -> Entry | None:
        """The request of that id whose client listens or may come back."""
        return self._requests.by_id.get(request_id)

    def submit(self, submission: Submission, now: float) -> tuple[Entry, Orders]:
        """A new request, or one whose client comes back.

        Returns:
            The entry and what to do. For a client that comes back to a request of this desk, the answer that it
            lacks and the end, if that has come, are in the entry: they are not ordered again.

        Raises:
            AlreadyExists: another request has that id.
            InvalidArgument: the client says it has tokens that are not of this answer.
            ResourceExhausted: every suitable worker is full.
            Unavailable: no suitable worker is there.
        """
        orders: Orders = []
        if known := matching(self.named(submission.request_id), submission):
            self.counters.resumed += 1
            self._requests.apply(known, ev.ClientReturned(submission.terms), now, orders)
            return known, orders
        if error := refusal(submission, self.fleet.snapshot(now), self._policy):
            self.counters.refused += 1
            raise error
        entry = self._requests.accept(submission, now)
        if submission.complete is not None:
            self._requests.apply(entry, ev.Completed(submission.complete), now, orders)
        else:
            self._requests.queue(entry)
        self._requests.settle(now, orders)
        return entry, orders

    def receive(self, worker_id: str, incarnation: str, entry: Entry, event: ev.FromWorker, now: float) -> Orders:
        """What a worker says of a request; a process that is not the worker's current one is not listened to."""
        orders: Orders = []
        if not self.fleet.current(worker_id, incarnation):
            return orders
        if event.epoch == entry.record.key.epoch:
            self._judge(worker_id, entry.record, event, now)
        self._requests.apply(entry, event, now, orders)
        self._requests.settle(now, orders)
        return orders

    def tell(self, entry: Entry, event: ev.Completed | ev.ClientLeft | ev.Abandoned, now: float) -> Orders:
        """Something else that happened to a request."""
        orders: Orders = []
        self._requests.apply(entry, event, now, orders)
        self._requests.settle(now, orders)
        return orders

    def connect(self, introduction: Introduction, now: float) -> Orders:
        """A worker has opened its stream."""
        orders: Orders = []
        worker_id = introduction.worker_id
        self.fleet.connect(introduction, now)
        drain = self._drains.pop(worker_id, None)
        if drain and drain.incarnation in ("", introduction.incarnation):  # else it has taken a drained one's place
            self._drains[worker_id] = Drain(introduction.incarnation, drain.until)
            self._begin_drain(worker_id, now, orders)
        self._requests.serve_line(now, orders)
        return orders

    def hear(self, worker_id: str, incarnation: str, now: float, report: Report | None = None) -> None:
        """A message of a worker has arrived, perhaps its load report."""
        if self.fleet.current(worker_id, incarnation):
            self.fleet.observe(worker_id, seen.Heard() if report is None else seen.Reported(report), now)

    def lose(self, worker_id: str, now: float) -> Orders:
        """A worker's stream is gone, and everything it held for this desk with it."""
        orders: Orders = []
        self.fleet.disconnect(worker_id)
        for entry in list(self._requests.by_serial.values()):
            self._requests.apply(entry, ev.WorkerLost(worker_id), now, orders)
        self._requests.settle(now, orders)
        return orders

    def drain(self, worker_id: str, timeout: float, now: float) -> Orders:
        """Takes a worker out: no new work at once, and after `timeout` seconds what runs there goes on elsewhere."""
        orders: Orders = []
        self._drains[worker_id] = Drain(self.fleet.incarnation(worker_id), now + timeout)
        self._begin_drain(worker_id, now, orders)
        return orders

    def retain(self, worker_ids: Collection[str]) -> None:
        """Only these workers are still placed; what was remembered of others is forgotten."""
        self._drains = {known: drain for known, drain in self._drains.items() if known in worker_ids}
        self.fleet.retain(worker_ids)

    def requests(self) -> Mapping[str, int]:
        """How many requests need each worker, or wait for it to give something back; workers without any left out."""
        counts: Counter[str] = Counter()
        for entry in self._requests.by_serial.values():
            holdings = (*entry.record.holders, *entry.record.freeing)
            counts.update({*needed(entry.record), *(holding.worker_id for holding in holdings)})
        return counts

    def tick(self, now: float) -> Orders:
        """Time has passed: workers are given up, drains end, requests expire. To be called ten times a second.

        A call that comes late was kept from it by what also kept the router from reading what its workers sent: they
        are not judged by their silence before it has caught up, once in a while.
        """
        orders: Orders = []
        if now - self._ticked > STANDSTILL and now > self._judging + self.fleet.limits.dead:
            self._judging = now + CATCH_UP
        self._ticked = now
        if now >= self._judging:
            self._give_up_the_dead(now, orders)
        for worker_id in [known for known, drain in self._drains.items() if drain.until <= now]:
            self._requests.move_away(worker_id, now, orders)
        for entry in list(self._requests.by_id.values()):
            if (due := wakeup(entry.record)) is not None and due <= now:
                self._requests.apply(entry, ev.TimePassed(), now, orders)
        self._requests.serve_line(now, orders)
        return orders

    def audit(self) -> Audit:
        """What is held, and whether the books agree."""
        return audit(self._requests.by_serial.values(), self.waiting, self.fleet.loads())

    def _give_up_the_dead(self, now: float, orders: Orders) -> None:
        for worker_id in self.fleet.dead(now):
            orders.append(Cut(worker_id))
            orders += self.lose(worker_id, now)

    def _begin_drain(self, worker_id: str, now: float, orders: Orders) -> None:
        self.fleet.observe(worker_id, seen.DrainBegun(), now)
        orders.append(TellDrain(worker_id))

    def _judge(self, worker_id: str, record: Record, event: ev.FromWorker, now: float) -> None:
        """What a worker's answer says of the workers."""
        match event:
            case ev.StageFailed(_, _, Internal()):
                self.fleet.observe(worker_id, seen.WorkFailed(), now)
            case ev.StageFailed(_, _, error) if error.transient:
                pass  # between two workers, or a refusal: it does not say which of them is broken
            case ev.StageFailed() | ev.ImagesEncoded() | ev.KvArrived():
                self.fleet.observe(worker_id, seen.WorkDone(), now)
            case ev.TokensArrived():
                if isinstance(record.state, Prefilling) or event.finish_reason is not None:
                    self.fleet.observe(worker_id, seen.WorkDone(), now)
            case ev.BlocksReserved() | ev.HolderFreed():
                pass
            case _:
                assert_never(event)
