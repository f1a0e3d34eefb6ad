"""One connection between two ranks."""

import os
import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from triptych.parallel.channel import frames


@dataclass(frozen=True, slots=True)
class Link:
    """A connected socket, closed with the last reference: no thread may be left with a descriptor that is another's.

    Attributes:
        connection: The socket, for frames.
        writing: Held by whoever sends.
    """

    connection: Connection
    writing: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def over(connected: socket.socket) -> "Link":
        """Takes a connected socket over. Small messages are not held back for larger ones (Nagle)."""
        connected.setblocking(True)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Link(Connection(connected.detach()))

    def send(self, frame: frames.Frame) -> None:
        """See `frames.send`; frames of several threads do not mix."""
        with self.writing:
            frames.send(self.connection, frame)

    def try_send(self, frame: frames.Frame) -> None:
        """Sends a small frame unless another one is on its way, or those sent before are not read; never blocks."""
        if not self.writing.acquire(blocking=False):
            return
        try:
            poller = select.poll()
            poller.register(self.connection, select.POLLOUT)
            if poller.poll(0):
                frames.send(self.connection, frame)
        finally:
            self.writing.release()

    def expect_within(self, seconds: float) -> None:
        """Reading fails from now on when nothing comes for so long; 0: never."""
        with self._socket() as own:
            own.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", *divmod(int(seconds * 1e6), 10**6))
            )

    def end(self, how: int = socket.SHUT_RDWR) -> None:
        """Says goodbye; threads that read or write are woken; idempotent."""
        with suppress(OSError), self._socket() as own:
            own.shutdown(how)

    def _socket(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.connection.fileno()))
