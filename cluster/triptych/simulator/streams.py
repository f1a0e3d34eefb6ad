"""A stream between a router and a worker: two directions, numbered messages, an end that both sides hear of."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, assert_never

from triptych.core.stream import Fresh, Missing, Numbering, Ordering, Repeated
from triptych.simulator.agenda import Lane
from triptych.simulator.network import Network, Wire
from triptych.simulator.transcript import Transcript

Sent = TypeVar("Sent", contravariant=True)
Got = TypeVar("Got", contravariant=True)


class Listener(Protocol[Got]):
    """Who holds one side."""

    def received(self, message: Got) -> None:
        """A message came, in its turn."""

    def ended(self, reason: str) -> None:
        """The stream is over, once, and not by our own `close`."""


class Side(Generic[Sent, Got]):
    """One side of a stream.

    Args:
        network: What carries the messages.
        wire: The direction to the other side.
        lane: The thread that this side lives in.
        transcript: Where mishaps are written.
    """

    def __init__(self, network: Network, wire: Wire, lane: Lane, transcript: Transcript) -> None:
        self.open = True
        self.lane = lane
        self.peer: Side[Got, Sent]
        self.listener: Listener[Got]
        self._network = network
        self._wire = wire
        self._transcript = transcript
        self._numbering = Numbering()
        self._ordering = Ordering()

    def send(self, message: Sent, size: int = 0) -> None:
        """Sends a message of `size` bytes; dropped when the stream is over."""
        if not self.open:
            return
        number = self._numbering.next()
        peer = self.peer
        mishap = self._network.carry_message(self._wire, lambda: peer.arrive(number, message), peer.lane, size)
        if mishap is not None and self._transcript.on:
            self._transcript.note(self._wire.source, self._wire.target, f"!! {mishap}: number {number}, {message}")

    def close(self) -> None:
        """Ends the stream; the other side hears of it unless a partition is in between."""
        if self.open:
            self.open = False
            self._network.carry(self._wire, self.peer.end, self.peer.lane)

    def arrive(self, number: int, message: Got) -> None:
        """A message has come over the wire."""
        if not self.open:
            return
        match self._ordering.accept(number):
            case Fresh():
                self.listener.received(message)
            case Repeated():
                self._transcript.note(self._wire.target, self._wire.source, f"!! dropped again: number {number}")
            case Missing() as missing:
                self.close()
                self.listener.ended(str(missing))
            case unknown:
                assert_never(unknown)

    def end(self) -> None:
        """The other side has closed."""
        if self.open:
            self.open = False
            self.listener.ended("the other side closed the stream")


def connect(
    network: Network,
    transcript: Transcript,
    caller: tuple[str, Lane],
    callee: tuple[str, Lane],
    accept: Callable[[Side[Got, Sent]], None],
) -> Side[Sent, Got]:
    """Opens a stream; `accept` gets the other side before the first message arrives there.

    Args:
        network: What lies between.
        transcript: Where mishaps are written.
        caller: Machine and thread that open it.
        callee: Machine and thread that are called.
        accept: Called with the callee's side.
    """
    near: Side[Sent, Got] = Side(network, network.wire(caller[0], callee[0]), caller[1], transcript)
    far: Side[Got, Sent] = Side(network, network.wire(callee[0], caller[0]), callee[1], transcript)
    near.peer, far.peer = far, near
    network.carry(network.wire(caller[0], callee[0]), lambda: accept(far), callee[1])
    return near
