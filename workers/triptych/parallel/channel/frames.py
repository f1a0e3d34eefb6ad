"""Messages on a connection: pickled, with large arrays beside the pickle instead of in it (PEP 574).

A frame is a head and then the bare bytes of the large buffers one after another. The head is the size of what follows
of it (!Q), the count of the buffers (!I), their sizes (!Q each) and the pickle.
"""

import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

_SIZE = struct.Struct("!Q")
_BESIDE = 1 << 16
"""Bytes from which on a buffer goes beside the pickle: below, one write for all is faster."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message, ready to be sent any number of times.

    Attributes:
        head: Sizes and pickle.
        buffers: The memory of the message's large arrays, not copied: it must not change until the frame is sent.
    """

    head: bytes
    buffers: tuple[memoryview, ...]


def pack(message: object) -> Frame:
    """Makes a frame of a message."""
    buffers: list[memoryview] = []

    def inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _BESIDE:
            return True
        buffers.append(raw)
        return False

    body = pickle.dumps(message, protocol=5, buffer_callback=inside)
    sizes = struct.pack(f"!I{len(buffers)}Q", len(buffers), *(buffer.nbytes for buffer in buffers))
    return Frame(_SIZE.pack(len(sizes) + len(body)) + sizes + body, tuple(buffers))


def send(connection: Connection, frame: Frame) -> None:
    """Sends a frame; blocks until the system has taken all of it.

    Raises:
        OSError: the connection is gone.
    """
    for part in (memoryview(frame.head), *frame.buffers):
        rest = part
        while rest:
            rest = rest[os.write(connection.fileno(), rest) :]


def receive(connection: Connection, heard: Callable[[], object] = lambda: None) -> object:
    """Waits for a message; its large arrays are writable.

    Args:
        connection: Where from.
        heard: Called whenever some of it has come: a large message on a slow link is not silence.

    Raises:
        EOFError: the other end has closed the connection.
        OSError: it is gone.
    """
    (size,) = _SIZE.unpack(_read(connection, _SIZE.size, heard))
    head = memoryview(_read(connection, size, heard))
    (count,) = struct.unpack_from("!I", head)
    sizes = struct.unpack_from(f"!{count}Q", head, 4)
    buffers = [_read(connection, size, heard) for size in sizes]
    return pickle.loads(head[4 + 8 * count :], buffers=buffers)


def _read(connection: Connection, size: int, heard: Callable[[], object]) -> bytearray:
    buffer = bytearray(size)
    rest = memoryview(buffer)
    while rest:
        count = os.readv(connection.fileno(), [rest])
        if not count:
            raise EOFError
        heard()
        rest = rest[count:]
    return buffer
