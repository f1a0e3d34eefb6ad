"""Where a receiver gets the bytes of a chunk from: the sender's mapped pool, or the connection."""

import logging
from collections.abc import Sequence
from typing import Protocol

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.transfer.backend import TransferBackend, agree
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Hello
from triptych.transfer.host import host_id
from triptych.transfer.pages import Pages, PoolGeometry
from triptych.transfer.runs import Run, block_count, intersect
from triptych.transfer.segment import SharedSegment
from triptych.transfer.stats import TransferCounts

_log = logging.getLogger(__name__)


class Source(Protocol):
    """One sender's pages, as its receiver sees them."""

    backend: TransferBackend

    def payload_bytes(self, runs: Sequence[Run]) -> int:
        """Bytes that must follow the descriptor of these blocks."""

    def write_into(self, target: Pages, source: Sequence[Run], runs: Sequence[Run]) -> TransferCounts:
        """Writes the sender's blocks `source` into the blocks `runs` of the target; what that took."""

    def close(self) -> None:
        """Lets go of the sender's memory."""


class SharedSource:
    """The sender's pool, mapped read-only."""

    backend = TransferBackend.SHARED_MEMORY

    def __init__(self, segment: SharedSegment, geometry: PoolGeometry) -> None:
        self._segment = segment
        self._pages = Pages(segment, geometry)

    def payload_bytes(self, runs: Sequence[Run]) -> int:
        """None: the bytes are where the runs say."""
        return 0

    def write_into(self, target: Pages, source: Sequence[Run], runs: Sequence[Run]) -> TransferCounts:
        """One copy per piece that is contiguous on both sides."""
        pairs = tuple(intersect(source, runs))
        for pair in pairs:
            target.copy_from(self._pages, pair)
        return TransferCounts(copies=len(pairs))

    def close(self) -> None:
        """Unmaps the sender's pool."""
        del self._pages
        self._segment.close()


class StreamSource:
    """The connection itself: pages follow their descriptor."""

    backend = TransferBackend.TCP

    def __init__(self, connection: Connection, geometry: PoolGeometry) -> None:
        self._connection = connection
        self._geometry = geometry

    def payload_bytes(self, runs: Sequence[Run]) -> int:
        """All pages of the runs."""
        return block_count(runs) * self._geometry.block_bytes

    def write_into(self, target: Pages, source: Sequence[Run], runs: Sequence[Run]) -> TransferCounts:
        """Receives straight into the target pages."""
        return TransferCounts(messages=self._connection.receive_into(target.pieces(runs)))

    def close(self) -> None:
        """Nothing is held; the server closes the connection."""


def open_source(hello: Hello, connection: Connection, target: PoolGeometry, wish: TransferBackend) -> Source:
    """Agrees on a backend with a sender and opens its pages.

    Raises:
        InvalidArgument: The sender's pages do not have the shape of ours.
        FailedPrecondition: No backend suits both.
    """
    theirs = hello.geometry
    if (theirs.layers, theirs.page_bytes) != (target.layers, target.page_bytes):
        raise InvalidArgument(
            f"the receiver's pool has {target.layers} layers of {target.page_bytes} byte pages, "
            f"the sender's {theirs.layers} of {theirs.page_bytes}",
            field="geometry",
        )
    shareable = hello.segment is not None and hello.host_id == host_id()
    accepted = agree(wish, hello.backend, shareable=shareable)
    if hello.segment is not None and accepted[0] is TransferBackend.SHARED_MEMORY:
        try:
            return SharedSource(SharedSegment.attach(hello.segment), theirs)
        except FailedPrecondition as error:
            if TransferBackend.TCP not in accepted:
                raise
            _log.warning("shared memory does not work with a sender on this host, using TCP: %s", error)
    return StreamSource(connection, theirs)
