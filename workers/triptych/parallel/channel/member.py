"""A follower's end of the control channel."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from triptych.core.errors import TriptychError
from triptych.parallel.channel import frames
from triptych.parallel.channel.entrance import enter
from triptych.parallel.channel.watch import Watch
from triptych.parallel.lost import RankLost, tell

_Message = TypeVar("_Message")

_HANGUP: int = getattr(select, "POLLRDHUP", select.POLLHUP)
"""The other end has said goodbye, whatever it has sent before and is still unread."""

_ENDED = "rank 0 has ended the group, or is gone"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sender's process runs."""


BEAT = frames.pack(Heartbeat())


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The follower can no longer take part.

    Attributes:
        text: Why.
        error: What it was, if that is known; a RankLost only follows from the loss of another rank.
    """

    text: str
    error: TriptychError | None


class Member:
    """Connects a follower with rank 0; see `triptych.parallel.channel`.

    A thread of its own tells rank 0 that this process runs, and notices at once when the group ends; once
    messages are received, also when rank 0 has fallen silent.

    Args:
        address: Rank 0's.
        key: Of this very group.
        rank: This one.

    Raises:
        RankLost: rank 0 is not there or does not let this rank in.
    """

    def __init__(self, address: tuple[str, int], key: bytes, rank: int) -> None:
        self._link, welcome = enter(address, key, rank)
        self._lost: RankLost | None = None
        self._on_lost: list[Callable[[RankLost], None]] = []
        self._state = threading.Lock()
        self._patience = welcome.patience
        self._watch = Watch(welcome.patience)
        self._subscribers: dict[type, Callable[[Any], object]] = {Heartbeat: lambda _: None}
        self._received: SimpleQueue[object] = SimpleQueue()
        self._reading = threading.Thread(target=self._read, daemon=True, name="member-reader")
        threading.Thread(target=self._beat, daemon=True, name="member-heartbeat").start()

    def subscribe(self, kind: type[_Message], callback: Callable[[_Message], object]) -> None:
        """Calls back for every message of this very type as soon as it comes, on the thread that reads from rank 0.

        Such messages do not come out of `receive`. Subscribe before the first `receive`: reading begins with it.
        When a callback fails, this rank gives up.
        """
        self._subscribers[kind] = callback

    def receive(self) -> object:
        """Waits for rank 0's next message that nobody has subscribed to, however long it takes. For one thread.

        Raises:
            RankLost: the group has ended, and everything sent before has been received; or rank 0 stands still.
        """
        if self._reading.ident is None:
            self._reading.start()
        message = self._received.get()
        if isinstance(message, RankLost):
            self._received.put(message)  # for the next call
            raise RankLost(message.message)
        return message

    def send(self, message: object) -> None:
        """Sends rank 0 a message, in the order of the calls.

        Raises:
            RankLost: the group has ended.
        """
        try:
            self._link.send(frames.pack(message))
        except OSError:
            raise self._lose(_ENDED) from None

    def on_lost(self, callback: Callable[[RankLost], None]) -> None:
        """Calls back once when the group ends, also in the middle of a step; at once when it has already."""
        with self._state:
            if not self._lost:
                self._on_lost.append(callback)
                return
        callback(self._lost)

    def give_up(self, error: BaseException) -> None:
        """Tells rank 0 why this rank can no longer take part, and closes. Unlike `close` it calls back."""
        text = f"{type(error).__name__}: {error}"
        with suppress(RankLost):  # then rank 0 knows, or is gone
            self.send(GaveUp(text, error if isinstance(error, TriptychError) else None))
        self._lose(f"this rank gave up: {text}")
        self.close()

    def close(self) -> None:
        """Leaves the group, which ends with that; wakes who receives. Idempotent."""
        with self._state:
            self._on_lost.clear()
        self._received.put(self._lose("this rank has left the group"))
        self._link.end(socket.SHUT_WR)

    def _lose(self, why: str) -> RankLost:
        with self._state:
            if self._lost:
                return self._lost
            self._lost = reason = RankLost(why)
            callbacks = list(self._on_lost)
        tell(callbacks, reason)
        return reason

    def _read(self) -> None:
        def heard() -> None:
            self._watch.hear(0, monotonic())

        try:
            while True:
                heard()
                self._take(frames.receive(self._link.connection, heard))
        except (OSError, EOFError):
            pass  # rank 0 has nothing more to say
        except Exception as error:  # a message that cannot be read here
            self.give_up(error)
        self._received.put(self._lose(_ENDED))

    def _take(self, message: object) -> None:
        callback = self._subscribers.get(type(message), self._received.put)
        try:
            callback(message)
        except Exception as error:
            self.give_up(error)

    def _beat(self) -> None:
        poller = select.poll()
        poller.register(self._link.connection, _HANGUP)
        while not self._lost:
            if poller.poll(self._watch.interval * 1000):
                self._lose(_ENDED)
                return
            try:
                self._link.try_send(BEAT)
            except OSError:
                self._lose(_ENDED)
            if self._watch.silent(monotonic()) is not None and not self._link.connection.poll():
                self._lose(f"rank 0 has been silent for {self._patience:g} s")
                self._link.end()  # wakes who reads, and who writes what rank 0 does not read
