"""The prefill side of an embedding transfer: fetch by handle, verify the copy."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xxhash

from triptych.core.errors import DataLoss, FailedPrecondition, Unavailable, error_class
from triptych.core.leases import MAX_MISMATCHES
from triptych.transfer.backend import Timeouts, TransferBackend
from triptych.transfer.connection import Connection
from triptych.transfer.embeddings import EmbeddingStore
from triptych.transfer.frames import Fetch, Found, Refusal
from triptych.transfer.host import host_id
from triptych.transfer.segment import Bytes, SegmentRef, SharedSegment
from triptych.transfer.server import Endpoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddingHandle:
    """Names an embedding that an encode worker holds.

    Attributes:
        incarnation: Of the worker's `EmbeddingStore`.
        content_hash: Key in it.
        endpoint: Its transfer server.
        size: Bytes.
        checksum: xxh3-64 of the bytes.
    """

    incarnation: str
    content_hash: str
    endpoint: Endpoint
    size: int
    checksum: int


def pull(
    handle: EmbeddingHandle,
    *,
    backend: TransferBackend = TransferBackend.AUTO,
    local: EmbeddingStore | None = None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
) -> Bytes:
    """Copies an embedding; the copy has been verified and is the caller's own, uint8 [size].

    Args:
        handle: Which.
        backend: Wish.
        local: The store of this process, if it has one: its own embeddings are copied without a connection.
        timeouts: Patience.

    Raises:
        Unavailable: The worker cannot be reached, another incarnation answers, or the embedding is gone.
        FailedPrecondition: No backend suits both.
        DataLoss: The copy stayed wrong, or the store now has other bytes under that hash.
    """
    if local is not None and local.incarnation == handle.incarnation:
        return _verified(handle, lambda: local.read(handle.incarnation, handle.content_hash).copy())
    if backend is TransferBackend.SHARED_MEMORY and handle.endpoint.host_id != host_id():
        raise FailedPrecondition(
            f"shared memory is forced, but {handle.endpoint.address} is on another host", field="transfer_backend"
        )
    connection = Connection.open(handle.endpoint.address, timeouts)
    try:
        return _verified(handle, lambda: _fetch(connection, handle, backend))
    finally:
        connection.close()


def _verified(handle: EmbeddingHandle, copy: Callable[[], Bytes]) -> Bytes:
    for _ in range(1 + MAX_MISMATCHES):
        array = copy()
        if array.size == handle.size and xxhash.xxh3_64_intdigest(array.data) == handle.checksum:
            return array
    raise DataLoss(f"the embedding of {handle.content_hash} kept arriving with a wrong checksum")


def _fetch(connection: Connection, handle: EmbeddingHandle, backend: TransferBackend) -> Bytes:
    connection.send(Fetch(handle.incarnation, handle.content_hash, backend, host_id()))
    message = connection.receive()
    match message.frame:
        case Found(size, checksum, segment):
            if (size, checksum) != (handle.size, handle.checksum):
                raise DataLoss(f"the embedding of {handle.content_hash} was replaced by another one")
            if segment is not None:
                return _copy_shared(connection, handle, backend, segment)
            if message.payload_bytes != size:
                raise Unavailable(f"the transfer server announced {message.payload_bytes} bytes instead of {size}")
            array = np.empty(size, dtype=np.uint8)
            connection.receive_into([array.data])
            return array
        case Refusal(code, text):
            raise error_class(code)(text)
        case answer:
            raise Unavailable(f"the transfer server answered Fetch with {type(answer).__name__}")


def _copy_shared(connection: Connection, handle: EmbeddingHandle, backend: TransferBackend, ref: SegmentRef) -> Bytes:
    try:
        segment = SharedSegment.attach(ref)
    except FailedPrecondition as error:
        if backend is TransferBackend.SHARED_MEMORY:
            raise
        _log.warning("shared memory does not work with an encoder on this host, using TCP: %s", error)
        return _fetch(connection, handle, TransferBackend.TCP)
    try:
        return segment.array.copy()
    finally:
        segment.close()
