"""Carries the decisions of the core out: events of the workers in, commands and answers out.

Everything here runs on the router's event loop, so that a step and its actions are one piece.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, assert_never

from triptych.core import events as ev
from triptych.core.errors import AlreadyExists, Cancelled, Internal, NotFound, ResourceExhausted, TriptychError
from triptych.core.generation import OperationKey
from triptych.core.load import load_of
from triptych.core.plan import RoutingPolicy, plan
from triptych.core.request import Ended, Record, step
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.router import commands
from triptych.router.call import Admitted, Call
from triptych.router.fleet import FleetDirectory
from triptych.router.translate import core_event, keyed_messages
from triptych.stage.v1 import stage_pb2 as pb

MAX_TIMEOUT_MS = 2**32 - 1  # what the wire can say: seven weeks
EPOCHS = 2**32  # and how many epochs it tells apart

logger = logging.getLogger(__name__)


class Outbound(Protocol):
    """The way to the workers."""

    def send(self, worker_id: str, command: pb.ConnectRequest) -> None:
        """Queues a command; one for a worker that is gone is dropped, its loss being an event of its own."""


@dataclass(slots=True)
class Counters:
    """Totals since the router started."""

    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    generated_tokens: int = 0


class Dispatcher:
    """Owns every running request.

    Args:
        fleet: The known workers.
        outbound: The way to them.
        policy: Limits of the routing rule.
        max_running: Requests that may run at once.
        clock: Monotonic seconds.
        first_epoch: Of the first request. Workers may still hold what an earlier router asked for under the same
            request id, so two routers must not count from the same number.
    """

    def __init__(
        self,
        fleet: FleetDirectory,
        outbound: Outbound,
        policy: RoutingPolicy,
        max_running: int,
        clock: Callable[[], float],
        first_epoch: int,
    ) -> None:
        self.counters = Counters()
        self.max_running = max_running
        self._fleet = fleet
        self._outbound = outbound
        self._policy = policy
        self._clock = clock
        self._running: dict[str, Call] = {}
        self._calls: dict[OperationKey, Call] = {}  # running ones, and ended ones that a worker still holds
        self._admitting = 0
        self._epochs = itertools.count(first_epoch)

    @property
    def running(self) -> int:
        """Requests whose client waits."""
        return len(self._running)

    @property
    def awaiting_free(self) -> int:
        """Ended requests of which a worker has not acknowledged Free."""
        return len(self._calls) - len(self._running)

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """Takes a place among the running requests for one that is still being checked, up to its `submit`.

        Raises:
            ResourceExhausted: every place is taken; nothing has been spent on the request yet.
        """
        if len(self._running) + self._admitting >= self.max_running:
            self.counters.refused += 1
            raise ResourceExhausted(
                f"{self.max_running} requests are running, which is the limit (router.max_running_requests)",
                retry_after=self._policy.retry_after,
            )
        self._admitting += 1
        try:
            yield
        finally:
            self._admitting -= 1

    def submit(self, request: Admitted, detokenizer: IncrementalDetokenizer, now: float) -> Call:
        """Starts a request that has a `seat`.

        Raises:
            AlreadyExists: a running request has that id.
            ResourceExhausted: every suitable worker is full.
            Unavailable: no suitable worker is there.
        """
        if request.request_id in self._running:
            raise AlreadyExists(f"a request with id {request.request_id!r} is running", field="request_id")
        chosen = plan(request.demand, self._fleet.snapshot(), self._policy)
        if isinstance(chosen, TriptychError):
            self.counters.refused += 1
            raise chosen
        key = OperationKey(request.request_id, next(self._epochs) % EPOCHS)
        call = Call(request, Record(key), detokenizer, now)
        call.plan = chosen
        call.timeline.dispatched(self._clock())
        self._running[request.request_id] = self._calls[key] = call
        self._apply(call, ev.Dispatched(chosen))  # sends every Encode
        call.drop_pictures()
        return call

    def leave(self, call: Call, error: TriptychError | None) -> None:
        """The client's connection has ended; `error` says why it ended before the answer did."""
        if error is not None:
            self._apply(call, ev.Abandoned(error))

    def cancel(self, request_id: str) -> None:
        """Ends a running request for an operator.

        Raises:
            NotFound: no such request runs.
        """
        call = self._running.get(request_id)
        if call is None:
            raise NotFound(f"no running request has the id {request_id!r}", field="request_id", request_id=request_id)
        self._apply(call, ev.Abandoned(Cancelled("cancelled by an operator")))

    def lose(self, worker_id: str) -> None:
        """A worker is gone."""
        self._fleet.disconnect(worker_id)
        for call in list(self._calls.values()):
            self._apply(call, ev.WorkerLost(worker_id))

    def receive(self, worker_id: str, event: pb.ConnectResponse) -> None:
        """An event of a worker; one of an older attempt is ignored."""
        if event.HasField("load_report"):
            self._fleet.reports[worker_id] = event.load_report
        for message in keyed_messages(event):
            key = OperationKey(message.key.request_id, message.key.epoch)
            if call := self._calls.get(key):
                try:
                    self._apply(call, core_event(message, call, worker_id, self._clock()))
                except Exception:  # a message that makes no sense ends its own request, not the stream of all
                    logger.exception("%s from %s cannot be handled", type(message).__name__, worker_id)
                    self._apply(call, ev.Abandoned(_defect()))

    def _apply(self, call: Call, event: ev.Event) -> None:
        record, actions = step(call.record, event)
        changed = record is not call.record
        call.record = record
        if changed:
            load = load_of(record, call.request.demand)
            self._fleet.rebook(call.load, load)
            call.load = load
        failed = [action for action in actions if not self._performed(call, action)]
        if isinstance(record.state, Ended):
            if failed:
                call.end(_defect(), self._clock())  # not heard if the client has its end already
            self._retire(call)
        elif failed:
            self._apply(call, ev.Abandoned(_defect()))
        elif call.detokenizer.stopped:
            self._apply(call, ev.StopTextFound())

    def _retire(self, call: Call) -> None:
        if self._running.get(call.request.request_id) is call:
            del self._running[call.request.request_id]
        if call.record.closed:
            self._calls.pop(call.record.key, None)

    def _performed(self, call: Call, action: ev.Action) -> bool:
        """Whether the action could be carried out; one that cannot must not keep the others from it."""
        try:
            self._perform(call, action)
        except Exception:
            logger.exception("%s cannot be carried out for %s", type(action).__name__, call.record.key)
            return False
        return True

    def _perform(self, call: Call, action: ev.Action) -> None:
        match action:
            case ev.SendEncode(worker, indices):
                self._outbound.send(worker, commands.encode(call, indices, self._timeout_ms(call)))
            case ev.SendReserve(worker):
                call.timeline.sent("reserve", self._clock())
                self._outbound.send(worker, commands.reserve(call, self._timeout_ms(call)))
            case ev.SendPrefill(worker, with_ticket):
                self._outbound.send(worker, commands.prefill(call, self._timeout_ms(call), with_ticket=with_ticket))
            case ev.SendDecode(worker):
                self._outbound.send(worker, commands.decode(call))
            case ev.SendFree(worker):
                self._outbound.send(worker, commands.free(call))
            case ev.Deliver(tokens):
                self.counters.generated_tokens += len(tokens)
                call.deliver(tokens)
            case ev.End(outcome):
                call.end(outcome, self._clock())
                self._count(outcome)
            case unknown:
                assert_never(unknown)

    def _count(self, outcome: object) -> None:
        match outcome:
            case Cancelled():
                self.counters.cancelled += 1
            case TriptychError():
                self.counters.failed += 1
            case _:
                self.counters.finished += 1

    def _timeout_ms(self, call: Call) -> int:
        if call.request.deadline is None:
            return 0
        left = round((call.request.deadline - self._clock()) * 1000)
        return min(max(1, left), MAX_TIMEOUT_MS)


def _defect() -> Internal:
    return Internal("the router failed; its log says how")
