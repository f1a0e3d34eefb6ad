"""One TCP connection between two transfer peers: frames in both directions, payload straight from and into memory."""

import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from triptych.core.errors import InvalidArgument, Unavailable
from triptych.transfer.backend import Timeouts
from triptych.transfer.codec import HEADER_BYTES, decode_body, decode_header, encode
from triptych.transfer.frames import Frame

# Pieces per system call; the limit of Linux and macOS (IOV_MAX).
MAX_PIECES = 1024
_DRAIN_BYTES = 1 << 18
# A host that vanished is noticed after a minute: 30 s of silence, then three probes.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


@dataclass(frozen=True, slots=True)
class Message:
    """A frame, and how many bytes of payload follow it on the connection."""

    frame: Frame
    payload_bytes: int = 0


class Connection:
    """A blocking socket that gives up on a peer that stalls. For one thread; `cut` may be called from any.

    The kernel keeps the time (SO_RCVTIMEO, SO_SNDTIMEO), so that one system call moves a whole payload.

    Raises:
        Unavailable: From every method that talks: the peer cannot be reached, closed, stalls, or does not speak the
            protocol.
    """

    def __init__(self, peer: socket.socket, timeouts: Timeouts) -> None:
        patience = struct.pack("ll", int(timeouts.stall), int(timeouts.stall % 1 * 1e6))
        peer.settimeout(None)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._socket = peer
        self._stall = timeouts.stall

    @classmethod
    def open(cls, address: str, timeouts: Timeouts) -> "Connection":
        """Connects to `host:port`."""
        host, _, port = address.rpartition(":")
        try:
            return cls(socket.create_connection((host.strip("[]"), int(port)), timeouts.connect), timeouts)
        except (OSError, OverflowError, ValueError) as error:
            raise Unavailable(f"cannot reach the transfer server {address}: {error}") from error

    def send(self, frame: Frame, payload: Sequence[memoryview] = ()) -> int:
        """Sends a frame and its payload together; the number of system calls."""
        head = memoryview(encode(frame, sum(len(piece) for piece in payload)))
        return self._move([head, *payload], self._socket.sendmsg)

    def receive(self) -> Message:
        """The next frame, due within the stall limit."""
        header = bytearray(HEADER_BYTES)
        self.receive_into([memoryview(header)])
        try:
            checked = decode_header(header)
            body = bytearray(checked.body_bytes)
            self.receive_into([memoryview(body)])
            return Message(decode_body(checked.kind, body), checked.payload_bytes)
        except InvalidArgument as error:
            raise Unavailable(f"the transfer peer does not speak the protocol: {error}") from error

    def wait(self) -> bool:
        """Blocks until the peer sends something (True) or closes (False), however long that takes."""
        while True:
            try:
                return bool(self._socket.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                continue
            except OSError:
                return False

    def receive_into(self, pieces: Sequence[memoryview]) -> int:
        """Fills the pieces in order; the number of system calls."""
        return self._move(pieces, self._fill)

    def drain(self, payload_bytes: int) -> None:
        """Reads a payload that nobody wants."""
        scratch = memoryview(bytearray(min(_DRAIN_BYTES, payload_bytes)))
        while payload_bytes:
            piece = scratch[:payload_bytes]
            self.receive_into([piece])
            payload_bytes -= len(piece)

    def cut(self) -> None:
        """Ends the connection now; a call that blocks on it in another thread raises Unavailable."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the socket back; idempotent."""
        self._socket.close()

    def _fill(self, pieces: list[memoryview]) -> int:
        return self._socket.recvmsg_into(pieces, 0, socket.MSG_WAITALL)[0]

    def _move(self, pieces: Sequence[memoryview], call: Callable[[list[memoryview]], int]) -> int:
        pending = [piece for piece in pieces if len(piece)]
        done = calls = 0
        while done < len(pending):
            try:
                moved = call(pending[done : done + MAX_PIECES])
            except BlockingIOError as error:
                raise Unavailable(f"the transfer peer moved no byte for {self._stall:g} s") from error
            except OSError as error:
                raise Unavailable(f"the connection to the transfer peer was lost: {error}") from error
            if not moved:
                raise Unavailable("the transfer peer closed the connection")
            calls += 1
            while moved:
                step = min(moved, len(pending[done]))
                pending[done] = pending[done][step:]
                moved -= step
                done += not len(pending[done])
        return calls
