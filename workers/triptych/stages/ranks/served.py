"""A rank that carries out what rank 0 orders."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import assert_never

from triptych.core.errors import Internal, TriptychError
from triptych.parallel import RankLost
from triptych.stages.ranks.gathering import outcome
from triptych.stages.ranks.messages import (
    CloseLease,
    Done,
    OpenLease,
    Order,
    RenewLeases,
    Report,
    SendBlocks,
    StopSending,
)
from triptych.stages.ranks.rank import RankKv

_FENCES = 32
"""Peers that may stall at once before an order waits for another one's fence."""


class ServedRank:
    """Takes orders as they come, also in the middle of a step; every one but heartbeats is answered once.

    Args:
        kv: The rank's own ends.
        report: Tells rank 0; from any thread.
    """

    def __init__(self, kv: RankKv, report: Callable[[Report], None]) -> None:
        self._kv = kv
        self._report = report
        self._taken = -1
        self._fences = ThreadPoolExecutor(_FENCES, thread_name_prefix="fence")

    def handle(self, order: Order) -> None:
        """Carries an order out, or begins to; one that has come before is ignored."""
        if order.number <= self._taken:
            return
        self._taken = order.number
        answer = partial(self._answer, order.number)
        match order.command:
            case OpenLease() as lease:
                answer(outcome(self._kv.open, lease))
            case SendBlocks() as blocks:
                self._kv.send(blocks).add_done_callback(answer)
            case StopSending(ticket_id):
                self._fences.submit(self._kv.sender.cancel, ticket_id).add_done_callback(answer)
            case CloseLease(ticket_id):
                self._fences.submit(self._kv.receiver.close, ticket_id).add_done_callback(answer)
            case RenewLeases(router_id):
                self._kv.receiver.renew(router_id)
            case _:
                assert_never(order.command)

    def close(self) -> None:
        """Waits for what is under way."""
        self._kv.shutdown()
        self._fences.shutdown()

    def _answer(self, number: int, done: "Future[None]") -> None:
        match done.exception():
            case None | TriptychError() as error:
                self._report(Done(number, error))
            case error:
                self._report(Done(number, Internal(f"a transfer order could not be carried out: {error}")))


def reporting(send: Callable[[object], None]) -> Callable[[Report], None]:
    """Reports by way of the channel; when rank 0 is gone nobody waits for a report."""

    def report(one: Report) -> None:
        with suppress(RankLost):
            send(one)

    return report
