"""Another rank's transfer ends, as rank 0 sees them."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future

from triptych.parallel import RankLost
from triptych.parallel.channel import Hub
from triptych.stages.ranks.messages import CloseLease, Command, Done, Order, RenewLeases, StopSending


class RemoteRank:
    """Gives orders, and keeps the futures of those that have not been answered.

    Args:
        send: Sends an order to the rank, in the order of the calls; raises RankLost. From any thread.
    """

    def __init__(self, send: Callable[[Order], None]) -> None:
        self._send = send
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._state = threading.Lock()
        self._waiting: dict[int, tuple[Command, Future[None]]] = {}

    def ask(self, command: Command) -> "Future[None]":
        """Has a command carried out.

        Returns:
            Done when it is. What a rank that is lost should have ended is ended; the rest raises RankLost.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        with self._sending:
            order = Order(next(self._numbers), command)
            with self._state:
                self._waiting[order.number] = command, future
            self._give(order)
        return future

    def tell(self, command: RenewLeases) -> None:
        """Has a command carried out that nobody waits for."""
        with self._sending:
            self._give(Order(next(self._numbers), command))

    def heard(self, done: Done) -> None:
        """The rank has answered; an answer that nobody waits for is ignored."""
        with self._state:
            _, future = self._waiting.pop(done.number, (None, None))
        if future and done.error:
            future.set_exception(done.error)
        elif future:
            future.set_result(None)

    def lost(self, error: RankLost) -> None:
        """The rank is gone: nothing is answered any more."""
        with self._state:
            waiting, self._waiting = self._waiting, {}
        for command, future in waiting.values():
            match command:
                case CloseLease() | StopSending():
                    future.set_result(None)
                case _:
                    future.set_exception(error)

    def _give(self, order: Order) -> None:
        try:
            self._send(order)
        except RankLost as error:
            self.lost(error)


def remote_ranks(hub: Hub, size: int) -> tuple[RemoteRank, ...]:
    """Ranks 1 and up of a replica of that size."""

    def remote(rank: int) -> RemoteRank:
        return RemoteRank(lambda order: hub.send(order, (rank,)))

    return tuple(remote(rank) for rank in range(1, size))
