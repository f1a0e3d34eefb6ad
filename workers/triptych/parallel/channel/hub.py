"""Rank 0's end of the control channel."""

import secrets
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import AuthenticationError
from time import monotonic
from typing import Any, TypeVar

from triptych.parallel.channel import frames
from triptych.parallel.channel.entrance import Hello, Refused, Welcome, meet
from triptych.parallel.channel.link import Link
from triptych.parallel.channel.member import BEAT, GaveUp, Heartbeat
from triptych.parallel.channel.watch import Watch
from triptych.parallel.lost import RankLost, tell

_Message = TypeVar("_Message")

_CAUSE = 0.5
"""Seconds to wait for the cause when what is known of a loss is a consequence of it."""


class Hub:
    """Connects rank 0 with all followers; see `triptych.parallel.channel`.

    The first rank that is lost ends the group: every connection is shut, so that each follower learns of it at once.
    All methods may be called from any thread.

    Args:
        size: Ranks of the group, rank 0 included.
        host: Where to listen, on a port of the system's choice.
        patience: Seconds of silence after which a follower counts as lost, and rank 0 for a follower. Who
            computes is not silent.
    """

    def __init__(self, size: int, host: str = "127.0.0.1", *, patience: float = 10.0) -> None:
        self.key = secrets.token_bytes(32)
        self._size = size
        self._patience = patience
        self._server = socket.create_server((host, 0), backlog=max(size, 16))
        self.address: tuple[str, int] = self._server.getsockname()[:2]
        self._links: dict[int, Link] = {}
        self._watch = Watch(patience)
        self._subscribers: dict[type, list[Callable[[int, Any], object]]] = defaultdict(list)
        self._on_lost: list[Callable[[RankLost], None]] = []
        self._on_ended: list[Callable[[RankLost], None]] = []
        self._lost: RankLost | None = None
        self._state = threading.Condition()  # guards everything above
        self._order = threading.Lock()  # held while a message goes out, so that all followers see one order
        self._ended = threading.Event()
        for task in (self._accept, self._keep_watch):
            threading.Thread(target=task, daemon=True, name=f"hub-{task.__name__[1:]}").start()

    def gather(self, within: float) -> None:
        """Waits until every follower is there.

        Raises:
            RankLost: some have not come within so many seconds, or one is lost again.
        """
        with self._state:
            self._state.wait_for(lambda: self._lost or len(self._links) == self._size - 1, within)
            missing = sorted(set(range(1, self._size)) - self._links.keys())
        if missing and not self._lost:
            self._lose(RankLost(f"ranks {missing} have not come within {within:g} s"))
        if self._lost:
            raise self._lost

    def send(self, message: object, ranks: Iterable[int] | None = None) -> None:
        """Sends a message to some followers, or to all; every follower receives in the order of the calls.

        Raises:
            RankLost: the group is lost or closed.
        """
        frame = frames.pack(message)
        rank = 0
        try:
            with self._order:
                for rank in sorted(self._links) if ranks is None else ranks:
                    self._links[rank].send(frame)
        except OSError:
            self._lose(RankLost(f"rank {rank} has closed the connection"))
        if self._lost:
            raise self._lost

    def subscribe(self, kind: type[_Message], callback: Callable[[int, _Message], object]) -> None:
        """Calls `callback(rank, message)` for every message of this very type, on the thread that reads from it.

        Messages that nobody has subscribed to, and one whose callback fails, lose the rank that has sent them.
        """
        with self._state:
            self._subscribers[kind].append(callback)

    def on_lost(self, callback: Callable[[RankLost], None]) -> None:
        """Calls back once when the group is lost, with the reason; at once when it is already. Not after `close`."""
        self._call_back(self._on_lost, callback)

    def on_ended(self, callback: Callable[[RankLost], None]) -> None:
        """As `on_lost`, and at `close` too: for those who wait for answers, of which none comes any more."""
        self._call_back(self._on_ended, callback)

    def blame(self, consequence: RankLost) -> RankLost:
        """Gives the reason why the group is lost, when a collective has failed with a consequence of it.

        Waits a moment for what the connections tell; ends the group in any case.
        """
        with self._state:
            self._state.wait_for(lambda: self._lost, _CAUSE)
        self._lose(consequence)
        return self._lost or consequence

    def close(self) -> None:
        """Ends the group in good order: what has been sent is delivered. Idempotent."""
        with self._state:
            self._on_lost.clear()
        self._lose(RankLost("rank 0 has closed the group"))

    def _call_back(self, callbacks: list[Callable[[RankLost], None]], callback: Callable[[RankLost], None]) -> None:
        with self._state:
            if not self._lost:
                callbacks.append(callback)
                return
        callback(self._lost)

    def _lose(self, reason: RankLost) -> None:
        with self._state:
            if self._lost:
                return
            self._lost = reason
            callbacks, links = [*self._on_lost, *self._on_ended], list(self._links.values())
            self._state.notify_all()
        self._ended.set()
        _close_server(self._server)
        for link in links:
            link.end(socket.SHUT_WR)  # not the other way too: unread words would make TCP throw away ours (RST)
        tell(callbacks, reason)

    def _accept(self) -> None:
        while not self._lost:
            try:
                connected, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), daemon=True, name="hub-reader").start()

    def _serve(self, connected: socket.socket) -> None:
        link = Link.over(connected)
        with suppress(OSError, EOFError, AuthenticationError):  # a stranger: nobody waits for it
            hello = meet(link, self.key, self._patience)
            if self._admit(hello, link):
                self._read(hello.rank, link)
        link.end()

    def _admit(self, hello: Hello, link: Link) -> bool:
        with self._state:
            refusal = self._refusal(hello.rank)
            if refusal is None:
                link.send(frames.pack(Welcome(self._patience)))  # first: who has gone again is no rank
                self._links[hello.rank] = link
                self._watch.hear(hello.rank, monotonic())
                self._state.notify_all()
                return True
        link.send(frames.pack(Refused(refusal)))
        return False

    def _refusal(self, rank: int) -> str | None:
        if self._lost:
            return self._lost.message
        if not 1 <= rank < self._size:
            return f"there are ranks 1 to {self._size - 1}"
        return f"rank {rank} is there already" if rank in self._links else None

    def _read(self, rank: int, link: Link) -> None:
        def heard() -> None:
            self._watch.hear(rank, monotonic())

        try:
            while True:
                message = frames.receive(link.connection, heard)
                if not self._lost:
                    self._take(rank, message)
        except (OSError, EOFError):
            self._lose(RankLost(f"rank {rank} has closed the connection"))
        except Exception as error:  # of a subscriber, or of unpickling: the ranks no longer agree
            self._lose(RankLost(f"rank 0 could not take a message of rank {rank}: {type(error).__name__}: {error}"))

    def _take(self, rank: int, message: object) -> None:
        match message:
            case Heartbeat():
                return
            case GaveUp(text, error):
                lost = RankLost(f"rank {rank} gave up: {text}")
                lost.__cause__ = error
                if isinstance(error, RankLost):
                    self.blame(lost)
                else:
                    self._lose(lost)
            case _:
                with self._state:
                    callbacks = list(self._subscribers.get(type(message), ()))
                if not callbacks:
                    raise TypeError(f"nobody takes {type(message).__name__}")
                for callback in callbacks:
                    callback(rank, message)

    def _keep_watch(self) -> None:
        while not self._ended.wait(self._watch.interval):
            with self._state:  # whoever is being let in hears that first
                links = list(self._links.values())
            for link in links:
                with suppress(OSError):  # its reader notices
                    link.try_send(BEAT)
            rank = self._watch.silent(monotonic())
            if rank is not None and not self._links[rank].connection.poll():  # it may be we who do not listen
                self._lose(RankLost(f"rank {rank} has been silent for {self._patience:g} s"))


def _close_server(server: socket.socket) -> None:
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
    server.close()
