"""The one stream between the router and one process of a worker, reopened for as long as the worker is placed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triptych.simulator import messages as msg
from triptych.simulator.streams import Side, connect
from triptych.simulator.words import words

if TYPE_CHECKING:
    from triptych.simulator.router import Router
    from triptych.simulator.worker import Worker

RECONNECT_SECONDS = 0.2
HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS = 10.0


class Link:
    """Keeps a stream open.

    Args:
        router: Whose link it is.
        worker: The process at the other end.
    """

    def __init__(self, router: Router, worker: Worker) -> None:
        self.worker = worker
        self.connected = False
        self._router = router
        self._stream: Side[msg.ToWorker, msg.ToRouter] | None = None
        self._closed = False
        self._connect()

    def send(self, message: msg.ToWorker, size: int = 0) -> None:
        """To the worker; dropped while there is no stream, since the worker holds nothing then."""
        if self.connected and self._stream:
            if self._router.world.transcript.on and not isinstance(message, msg.Heartbeat):
                self._router.note(self.worker.name, words(message))
            self._stream.send(message, size)

    def cut(self) -> None:
        """Ends the stream that there is; another one is opened."""
        if self._stream:
            self._stream.close()
            self._router.after(0.0, lambda stream=self._stream: self._over(stream), self._router.io)  # type: ignore[misc]

    def close(self) -> None:
        """Ends the link."""
        self._closed = True
        self.cut()

    def received(self, message: msg.ToRouter) -> None:
        """From the worker."""
        match message:
            case msg.Welcome(introduction):
                self.connected = True
                self._router.connected(introduction)
                self._beat(self._stream)
            case _:
                self._router.received(self.worker, message)

    def ended(self, reason: str) -> None:
        """The stream is over."""
        self._router.note(self.worker.name, f"the stream has ended: {reason}")
        self._over(self._stream)

    def _connect(self) -> None:
        if self._closed:
            return
        router, worker = self._router, self.worker
        if not worker.alive:
            router.after(RECONNECT_SECONDS, self._connect, router.io)
            return
        network = router.world.network
        here, there = (router.name, router.io), (worker.name, worker.io)
        stream: Side[msg.ToWorker, msg.ToRouter] = connect(
            network, router.world.transcript, here, there, worker.accept
        )
        self._stream = stream
        stream.listener = self
        router.open[stream] = None
        stream.send(msg.Hello(router.router_id))
        router.after(SILENCE_SECONDS, lambda: self._welcomed(stream), router.io)

    def _welcomed(self, stream: Side[msg.ToWorker, msg.ToRouter]) -> None:
        if stream is self._stream and not self.connected:
            stream.close()
            self._over(stream)

    def _beat(self, stream: Side[msg.ToWorker, msg.ToRouter] | None) -> None:
        if stream is not None and stream is self._stream and stream.open:
            stream.send(msg.Heartbeat())
            self._router.after(HEARTBEAT_SECONDS, lambda: self._beat(stream), self._router.io)

    def _over(self, stream: Side[msg.ToWorker, msg.ToRouter] | None) -> None:
        if stream is None or stream is not self._stream:
            return
        self._stream = None
        self._router.open.pop(stream, None)
        if self.connected:
            self.connected = False
            self._router.lost(self.worker.name)
        if not self._closed:
            self._router.after(RECONNECT_SECONDS, self._connect, self._router.io)
