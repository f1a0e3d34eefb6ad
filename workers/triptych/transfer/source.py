"""Where a receiver gets the bytes of a chunk from: the sender's mapped pool, or the connection."""

import logging
from collections.abc import Sequence
from typing import Protocol

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.transfer.backend import TransferBackend, agree
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Hello
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.heads import Heads
from triptych.transfer.host import host_id
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run, block_count, intersect
from triptych.transfer.segment import SharedSegment
from triptych.transfer.stats import TransferCounts

_log = logging.getLogger(__name__)


class Source(Protocol):
    """One sender's pages, as its receiver sees them."""

    backend: TransferBackend
    geometry: PoolGeometry

    def payload_bytes(self, runs: Sequence[Run], heads: Heads) -> int:
        """Bytes that must follow the descriptor of these blocks."""

    def write_into(self, target: Pages, source: Sequence[Run], runs: Sequence[Run], heads: Heads) -> TransferCounts:
        """Writes the sender's blocks `source` into the blocks `runs` of the target; what that took."""

    def close(self) -> None:
        """Lets go of the sender's memory."""


class SharedSource:
    """The sender's pool, mapped read-only."""

    backend = TransferBackend.SHARED_MEMORY

    def __init__(self, segment: SharedSegment, geometry: PoolGeometry) -> None:
        self.geometry = geometry
        self._segment = segment
        self._pages = Pages(segment, geometry)

    def payload_bytes(self, runs: Sequence[Run], heads: Heads) -> int:
        """None: the bytes are where the runs say."""
        return 0

    def write_into(self, target: Pages, source: Sequence[Run], runs: Sequence[Run], heads: Heads) -> TransferCounts:
        """One copy per piece that is contiguous on both sides."""
        pairs = tuple(intersect(source, runs))
        for pair in pairs:
            target.copy_from(self._pages, pair, heads)
        return TransferCounts(copies=len(pairs))

    def close(self) -> None:
        """Unmaps the sender's pool."""
        del self._pages
        self._segment.close()


class StreamSource:
    """The connection itself: pages follow their descriptor."""

    backend = TransferBackend.TCP

    def __init__(self, connection: Connection, geometry: PoolGeometry) -> None:
        self.geometry = geometry
        self._connection = connection

    def payload_bytes(self, runs: Sequence[Run], heads: Heads) -> int:
        """All bytes of the heads."""
        return block_count(runs) * self.geometry.slice_bytes(heads)

    def write_into(self, target: Pages, source: Sequence[Run], runs: Sequence[Run], heads: Heads) -> TransferCounts:
        """Receives straight into the target pages."""
        return TransferCounts(messages=self._connection.receive_into(target.pieces(runs, heads)))

    def close(self) -> None:
        """Nothing is held; the server closes the connection."""


def open_source(hello: Hello, connection: Connection, target: PoolGeometry, wish: TransferBackend) -> Source:
    """Agrees on a backend with a sender and opens its pages.

    Raises:
        InvalidArgument: A head of the sender's does not have the shape of ours.
        FailedPrecondition: No backend suits both.
    """
    theirs = hello.geometry
    if not theirs.matches(target):
        raise InvalidArgument(f"the receiver's pool has {target}, the sender's {theirs}", field="geometry")
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
