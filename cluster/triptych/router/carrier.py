"""Carries the orders of a desk out: commands to workers, tokens and ends to clients."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol, assert_never

from triptych.core.desk import Cut, Entry, Orders, Perform, TellDrain
from triptych.core.errors import Internal
from triptych.core.request import actions as do
from triptych.router import commands
from triptych.router.texts import TextWork
from triptych.router.work import Work
from triptych.stage.v1 import stage_pb2 as pb

MAX_TIMEOUT_MS = 2**32 - 1  # what the wire can say: seven weeks

logger = logging.getLogger(__name__)


class Outbound(Protocol):
    """The way to the workers."""

    def send(self, worker_id: str, command: pb.ConnectRequest) -> None:
        """Queues a command; one for a worker that is gone is dropped, its loss being an event of its own."""

    def cut(self, worker_id: str, reason: str) -> None:
        """Ends the stream to a worker that has been given up."""


class Carrier:
    """Does what it is told, in the order in which it is told.

    Args:
        outbound: The way to the workers.
        clock: Monotonic seconds.
    """

    def __init__(self, outbound: Outbound, clock: Callable[[], float]) -> None:
        self._outbound = outbound
        self._clock = clock

    def carry_out(self, orders: Orders, works: Mapping[Entry, Work | TextWork]) -> tuple[Work | TextWork, ...]:
        """The requests one of whose orders could not be carried out, which keeps none of the others from it."""
        broken: dict[Work | TextWork, None] = {}
        for order in orders:
            match order:
                case Perform(entry, action):
                    if not self._performed(works[entry], action):
                        broken[works[entry]] = None
                case Cut(worker_id):
                    self._outbound.cut(worker_id, "the worker was silent, or stood still, for too long")
                case TellDrain(worker_id):
                    self._outbound.send(worker_id, pb.ConnectRequest(drain=pb.Drain()))
                case unknown:
                    assert_never(unknown)
        return tuple(broken)

    def balance_experts(self, worker_id: str) -> None:
        """Has a worker move experts among its ranks."""
        self._outbound.send(worker_id, pb.ConnectRequest(balance_experts=pb.BalanceExperts()))

    def _performed(self, work: Work | TextWork, action: do.Action) -> bool:
        try:
            if isinstance(work, TextWork):
                self._perform_for_texts(work, action)
            else:
                self._perform(work, action)
        except Exception:
            logger.exception("%s cannot be carried out for %s", type(action).__name__, work.entry.record.key)
            return False
        return True

    def _perform(self, work: Work, action: do.Action) -> None:
        match action:
            case do.SendEncode():
                self._outbound.send(action.worker_id, commands.encode(work, action, self._timeout_ms(work)))
            case do.SendReserve():
                work.timeline.sent("reserve", self._clock())
                self._outbound.send(action.worker_id, commands.reserve(work, action, self._timeout_ms(work)))
            case do.SendPrefill():
                work.settle()
                self._outbound.send(action.worker_id, commands.prefill(work, action, self._timeout_ms(work)))
            case do.SendDecode():
                self._outbound.send(action.worker_id, commands.decode(work, action))
            case do.SendFree():
                self._outbound.send(action.worker_id, commands.free(work, action))
            case do.Deliver(tokens):
                work.call.deliver(tokens)
            case do.Place():
                work.begin_attempt(self._clock())
            case do.End(outcome):
                work.end(outcome, self._clock())
            case unknown:
                assert_never(unknown)

    def _perform_for_texts(self, work: TextWork, action: do.Action) -> None:
        match action:
            case do.SendPrefill():
                work.settle()
                self._outbound.send(action.worker_id, commands.embed(work, action, self._timeout_ms(work)))
            case do.SendFree():
                self._outbound.send(action.worker_id, commands.free(work, action))
            case do.Place():
                work.begin_attempt(self._clock())
            case do.End(outcome):
                work.end(outcome, self._clock())
            case do.SendEncode() | do.SendReserve() | do.SendDecode() | do.Deliver():
                raise Internal(f"{type(action).__name__} has no meaning for texts")
            case unknown:
                assert_never(unknown)

    def _timeout_ms(self, work: Work | TextWork) -> int:
        if work.request.deadline is None:
            return 0
        left = round((work.request.deadline - self._clock()) * 1000)
        return min(max(1, left), MAX_TIMEOUT_MS)
