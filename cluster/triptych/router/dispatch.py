"""Carries the decisions of the desk out: what workers and clients say in, commands and answers out.

Everything here runs on the router's event loop, so that an event and its orders are one piece.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping

from triptych.core.desk import Counters, Desk, Entry, Orders, Seat, Seats, Submission
from triptych.core.errors import Cancelled, Internal, NotFound, ResourceExhausted, TriptychError
from triptych.core.fleet.worker import Introduction, Report, Worker
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.pictures import PictureMemory
from triptych.core.request import events as ev
from triptych.core.request.record import Terms
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.router.call import Admitted, Call
from triptych.router.carrier import Carrier, Outbound
from triptych.router.limits import RouterLimits
from triptych.router.texts import AdmittedTexts, TextWork, VectorCall
from triptych.router.translate import core_event, keyed_messages
from triptych.router.work import Work
from triptych.stage.v1 import stage_pb2 as pb

logger = logging.getLogger(__name__)


class Dispatcher:
    """Owns what the requests of a desk carry, and who waits for them.

    Args:
        outbound: The way to the workers.
        limits: Of requests and workers.
        clock: Monotonic seconds.
        first_serial: Of the first request. Workers may still hold what an earlier router asked for under the same
            request id, so two routers must not count from the same number.
    """

    def __init__(
        self, outbound: Outbound, limits: RouterLimits, clock: Callable[[], float], first_serial: int
    ) -> None:
        self.limits = limits
        self.seats = Seats(limits.max_running, PictureMemory(limits.picture_bytes), limits.routing.retry_after)
        self._desk = Desk(limits.routing, limits.health, first_serial)
        self._carrier = Carrier(outbound, clock)
        self._clock = clock
        self._works: dict[Entry, Work | TextWork] = {}

    @property
    def counters(self) -> Counters:
        """Totals since the router started."""
        return self._desk.counters

    @property
    def running(self) -> int:
        """Requests whose client waits, or may come back."""
        return self._desk.running

    @property
    def waiting(self) -> int:
        """Requests that lost their workers and have no others yet."""
        return self._desk.waiting

    @property
    def awaiting_free(self) -> int:
        """Ended requests of which a worker has not acknowledged Free."""
        return self._desk.awaiting_free

    @property
    def workers(self) -> Mapping[str, Worker]:
        """The connected workers."""
        return self._desk.fleet.workers

    def kv_tokens(self) -> int | None:
        """Tokens that the smallest connected KV cache holds; None while there is none."""
        return self._desk.fleet.kv_tokens()

    def requests(self) -> Mapping[str, int]:
        """How many requests need each worker, or wait for it to give something back."""
        return self._desk.requests()

    @contextlib.contextmanager
    def seat(self, picture_bytes: int = 0, returning: Collection[str] = (), places: int = 1) -> Iterator[Seat]:
        """Takes places among the running requests for one that is still being checked, up to its `submit`.

        Args:
            picture_bytes: What its pictures weigh.
            returning: Where its client comes back, the ids of its answers; one that is known here has its place.
            places: One for each answer that is asked for.

        Raises:
            ResourceExhausted: too few places, or too little of the pictures' memory, are left; nothing has been spent
                on it yet.
        """
        places -= sum(self._desk.named(request_id) is not None for request_id in returning)
        if places <= 0:
            yield Seat()
            return
        try:
            seat = self.seats.take(self._desk.running, picture_bytes, places)
        except ResourceExhausted:
            self.counters.refused += 1
            raise
        try:
            yield seat
        finally:
            self.seats.give_back(seat)

    def submit(self, request: Admitted, detokenizer: IncrementalDetokenizer, now: float) -> Call:
        """Starts a request that has a `seat`, or goes on with one whose client comes back.

        Args:
            request: The request.
            detokenizer: Knows the tokens that the client has.
            now: When it arrived.

        Raises:
            TriptychError: as `Desk.submit`.
        """
        entry, orders = self._desk.submit(self._submission(request), self._clock())
        received = len(request.received or ())
        call = Call(request.request_id, detokenizer, received, request.client_id)
        if isinstance(work := self._works.get(entry), Work):
            self._take_over(work, call, received)
        else:
            self._works[entry] = work = Work(entry, request, call, now)
            self.seats.pictures.keep(request.picture_bytes)
            work.timeline.dispatched(self._clock())
        self._perform_all(orders, entry)
        return call

    def embed(self, request: AdmittedTexts, now: float) -> VectorCall:
        """Starts a request for vectors that has a `seat`; arguments and errors are those of `submit`."""
        terms = Terms(request.deadline, self.limits.max_retries, self.limits.replay_patience)
        entry, orders = self._desk.submit(Submission(request.request_id, request.demand, terms), self._clock())
        call = VectorCall(request.request_id)
        self._works[entry] = work = TextWork(entry, request, call, now)
        work.timeline.dispatched(self._clock())
        self._perform_all(orders, entry)
        return call

    def leave(self, call: Call | VectorCall, error: TriptychError | None) -> None:
        """A client's connection has ended; without an error, because it has its answer to the end."""
        if (entry := self._desk.named(call.request_id)) and self._works[entry].call is call:
            self._tell(entry, ev.ClientLeft(error))

    def cancel(self, request_id: str) -> None:
        """Ends a running request, with all of its answers, for an operator.

        Raises:
            NotFound: no such request runs.
        """
        known = [entry for entry, work in self._works.items() if work.request.client_id == request_id]
        entries = [entry for entry in known if entry.running and self._desk.named(entry.request_id) is entry]
        if not entries:
            raise NotFound(f"no running request has the id {request_id!r}", field="request_id", request_id=request_id)
        for entry in entries:
            self._tell(entry, ev.Abandoned(Cancelled("cancelled by an operator")))

    def connect(self, introduction: Introduction) -> None:
        """A worker has opened its stream."""
        self._perform_all(self._desk.connect(introduction, self._clock()))

    def lose(self, worker_id: str) -> None:
        """A worker's stream has ended."""
        self._perform_all(self._desk.lose(worker_id, self._clock()))
        self._sweep()

    def drain(self, worker_id: str, timeout: float) -> None:
        """Takes a worker out; what still runs there after `timeout` seconds goes on elsewhere."""
        self._perform_all(self._desk.drain(worker_id, timeout, self._clock()))

    def balance_experts(self, worker_id: str) -> None:
        """Has a worker move experts among its ranks."""
        self._carrier.balance_experts(worker_id)

    def retain(self, worker_ids: Collection[str]) -> None:
        """Only these workers are still placed."""
        self._desk.retain(worker_ids)

    def tick(self) -> None:
        """Time has passed."""
        self._perform_all(self._desk.tick(self._clock()))
        self._sweep()

    def receive(self, worker_id: str, incarnation: str, event: pb.ConnectResponse) -> None:
        """An event of a worker; one of an older attempt or process is ignored."""
        now = self._clock()
        report = event.load_report
        self._desk.hear(worker_id, incarnation, now, _report(report) if event.HasField("load_report") else None)
        for message in keyed_messages(event):
            if entry := self._desk.find(OperationKey(message.key.request_id, message.key.epoch)):
                try:
                    meaning = core_event(message, self._works[entry], worker_id, now)
                    orders = self._desk.receive(worker_id, incarnation, entry, meaning, now)
                except Exception:  # a message that makes no sense ends its own request, not the stream of all
                    logger.exception("%s from %s cannot be handled", type(message).__name__, worker_id)
                    orders = self._desk.tell(entry, ev.Abandoned(_defect()), now)
                self._perform_all(orders, entry)

    def _submission(self, request: Admitted) -> Submission:
        terms = Terms(request.deadline, self.limits.max_retries, self.limits.replay_patience, request.linger)
        return Submission(
            request.request_id,
            request.demand,
            terms,
            request.digest,
            request.received,
            complete=request.ended,
            follows=bool(request.of),
        )

    def _take_over(self, work: Work, call: Call, received: int) -> None:
        """The client is here again: it gets what it lacks, and whoever stood in its place hears no more."""
        work.call.fail(Cancelled("the client has come back by another connection"))
        work.call = call
        call.deliver(work.entry.answer[received:])
        if not work.entry.running:
            work.end(work.entry.outcome, self._clock())

    def _tell(self, entry: Entry, event: ev.Completed | ev.ClientLeft | ev.Abandoned) -> None:
        self._perform_all(self._desk.tell(entry, event, self._clock()), entry)

    def _perform_all(self, orders: Orders, entry: Entry | None = None) -> None:
        """Carries orders out, then sees to the request whose event they come from."""
        for work in self._carrier.carry_out(orders, self._works):
            work.call.fail(_defect())  # not heard if the client has its end already
            self._tell(work.entry, ev.Abandoned(_defect()))
        if entry is not None:
            self._look_after(entry)

    def _look_after(self, entry: Entry) -> None:
        """After an event: a stop text ends the answer, and what is over is let go."""
        work = self._works.get(entry)
        if work and entry.running and work.stopped:
            self._tell(entry, ev.Completed(FinishReason.STOP))
        elif work and not entry.running:
            self._let_go(work)

    def _sweep(self) -> None:
        for work in [work for entry, work in self._works.items() if not entry.running]:
            self._let_go(work)

    def _let_go(self, work: Work | TextWork) -> None:
        """Of the pictures when the answer has ended, of everything else when nobody has anything left to hear."""
        self.seats.pictures.release(work.drop_pictures())
        if work.entry.record.closed:
            del self._works[work.entry]


def _report(report: pb.LoadReport) -> Report:
    return Report(report.steps, report.runnable_requests, report.held_blocks, report.draining)


def _defect() -> Internal:
    return Internal("the router failed; its log says how")
