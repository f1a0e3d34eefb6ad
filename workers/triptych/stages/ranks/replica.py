"""The transfers of a replica: what all of its ranks do, as its rank 0 sees it."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import assert_never

from triptych.core.errors import TriptychError
from triptych.core.jobs.events import KvComplete, KvFailed
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub
from triptych.stages.messages import Unfenced
from triptych.stages.ranks.gathering import all_of, failed
from triptych.stages.ranks.layout import KvLayout
from triptych.stages.ranks.messages import (
    Arrived,
    CloseLease,
    Command,
    Done,
    Lapsed,
    OpenLease,
    RenewLeases,
    Report,
    SendBlocks,
    Share,
    StopSending,
)
from triptych.stages.ranks.rank import RankKv
from triptych.stages.ranks.remote import RemoteRank
from triptych.stages.ranks.tickets import Receiving, Tickets

_FENCES = 32
"""Tickets that may be ended at once while their peers stall; a renewal waits for none of them."""


class ReplicaKv:
    """Has the ranks that hold a sequence send and receive its KV. A replica may have one rank, and nobody to order.

    Args:
        own: Rank 0's ends.
        layout: Which rank holds what.
        remote: Ranks 1 and up.
        post: Hears once of every ticket that is complete or has failed; from any thread.
    """

    def __init__(
        self,
        own: RankKv,
        layout: KvLayout,
        remote: Sequence[RemoteRank],
        post: Callable[[KvComplete | KvFailed | Unfenced], None],
    ) -> None:
        self.own = own
        self.layout = layout
        self._remote = tuple(remote)
        self._post = post
        self._lock = threading.Lock()
        self._tickets = Tickets()
        self._renewing: set[str] = set()
        self._renewals = ThreadPoolExecutor(1, thread_name_prefix="renewal")
        self._fences = ThreadPoolExecutor(_FENCES, thread_name_prefix="rank-fence")

    @property
    def ranks(self) -> range:
        """All of them."""
        return range(1 + len(self._remote))

    def follow(self, hub: Hub) -> None:
        """Hears what the other ranks report, and when none of them does any more."""
        hub.subscribe(Done, self.heard)
        hub.subscribe(Arrived, self.heard)
        hub.subscribe(Lapsed, self.heard)
        hub.on_ended(self.lost)

    def taking(self, blocks: Sequence[int]) -> tuple[Share, ...]:
        """Where the parts of some blocks can be sent to; nothing where one rank takes all."""
        return self.layout.taking(blocks) if self._remote else ()

    def send(
        self, ticket_id: str, first: int, blocks: Sequence[int], wanted: Sequence[Share], *, last: bool
    ) -> "Future[None]":
        """Sends some blocks; done when every wanted share of them has arrived, or one cannot."""
        try:
            shares, (leader, *_) = self.layout.sending(ticket_id, wanted), self.layout.ranks(blocks)
        except TriptychError as error:
            return failed(error)
        ids = self.layout.in_pool(blocks)
        orders = {leader + place: SendBlocks(ticket_id, first, ids, last, own) for place, own in shares.items()}
        return all_of([self._remote[r - 1].ask(order) if r else self.own.send(order) for r, order in orders.items()])

    def open(self, lease: OpenLease) -> None:
        """Opens a ticket on all ranks that hold its blocks; returns when it is open.

        Raises:
            TriptychError: as `KvReceiver.open`, of any rank, or RankLost; close the ticket.
        """
        ranks = self.layout.ranks(lease.block_ids)
        own = replace(lease, block_ids=self.layout.in_pool(lease.block_ids))
        with self._lock:
            self._tickets.open(own, ranks)
        asked = self._ask(own, ranks)
        if 0 in ranks:
            self.own.open(own)
        asked.result()

    def close(self, ticket_id: str) -> None:
        """Ends a ticket that is complete; does not wait."""
        self._ask(CloseLease(ticket_id), self._end(ticket_id))
        self.own.receiver.close(ticket_id)

    def stop_receiving(self, ticket_id: str) -> None:
        """Ends a ticket; returns when no rank writes its blocks any more."""
        self._fence(ticket_id, self._end(ticket_id))

    def stop_sending(self, ticket_id: str) -> None:
        """Drops a ticket's chunks; returns when no rank reads their blocks any more."""
        asked = self._ask(StopSending(ticket_id), self.ranks)
        self.own.sender.cancel(ticket_id)
        asked.result()

    def renew(self, router_id: str) -> None:
        """A heartbeat of a router; does not block."""
        self.own.receiver.renew(router_id)
        with self._lock:
            if not self._remote or router_id in self._renewing:
                return
            self._renewing.add(router_id)
        with suppress(RuntimeError):  # it is shut down: there is nothing to renew
            self._renewals.submit(self._renew, router_id)

    def heard(self, rank: int, report: Report) -> None:
        """What a rank says; rank 0's own ends say it too."""
        match report:
            case Done():
                self._remote[rank - 1].heard(report)
            case Arrived():
                with self._lock:
                    complete = self._tickets.arrived(rank, report)
                if complete:
                    self._post(complete)
            case Lapsed(ticket_id, error):
                with self._lock:
                    ticket = self._tickets.fail(ticket_id)
                if ticket and self._remote:
                    self._aside(self._give_up, ticket_id, ticket, error)
                elif ticket:
                    self._post(KvFailed(ticket_id, error))
            case _:
                assert_never(report)

    def lost(self, error: RankLost) -> None:
        """The group has ended: no other rank takes orders any more, and nothing on it counts."""
        for rank in self._remote:
            rank.lost(error)
        with self._lock:
            tickets = [
                (ticket_id, ticket) for ticket_id in self._tickets.ids if (ticket := self._tickets.fail(ticket_id))
            ]
        for ticket_id, ticket in tickets:
            self._aside(self._give_up, ticket_id, ticket, error)

    def shutdown(self) -> None:
        """Waits for what is under way; of what fails later nobody hears."""
        self.own.shutdown()
        self._renewals.shutdown()
        self._fences.shutdown()

    def _renew(self, router_id: str) -> None:
        with self._lock:
            self._renewing.discard(router_id)
        for rank in self._remote:
            rank.tell(RenewLeases(router_id))

    def _end(self, ticket_id: str) -> Iterable[int]:
        """The ranks that may still write a ticket's blocks: all, if it is not known which."""
        with self._lock:
            ticket = self._tickets.end(ticket_id)
        return ticket.ranks if ticket else self.ranks

    def _ask(self, command: Command, ranks: Iterable[int]) -> "Future[None]":
        return all_of([self._remote[rank - 1].ask(command) for rank in ranks if rank])

    def _fence(self, ticket_id: str, ranks: Iterable[int]) -> None:
        """Ends a ticket on some ranks, and returns when none of them writes its blocks any more."""
        asked = self._ask(CloseLease(ticket_id), ranks)
        self.own.receiver.close(ticket_id)
        asked.result()

    def _give_up(self, ticket_id: str, ticket: Receiving, error: TriptychError) -> None:
        """Says that a ticket has failed, when no rank writes its blocks any more."""
        try:
            self._fence(ticket_id, ticket.ranks)
        except Exception as failure:
            self._post(Unfenced(ticket.key, failure))
        else:
            self._post(KvFailed(ticket_id, error))

    def _aside(self, call: Callable[..., None], *arguments: object) -> None:
        """Makes a call that may block on another thread: this one may have to read the answer that it waits for."""
        with suppress(RuntimeError):  # it is shut down: nobody hears of tickets any more
            self._fences.submit(call, *arguments)
