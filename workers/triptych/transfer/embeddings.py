"""The encode side of an embedding transfer: a content-addressed cache whose entries wait for their readers."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xxhash

from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, TriptychError
from triptych.transfer.backend import TransferBackend, agree
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Fetch, Found, Frame, Refusal
from triptych.transfer.host import host_id
from triptych.transfer.segment import Bytes, SharedSegment
from triptych.transfer.stats import TransferCounts, TransferStats


class Holder(NamedTuple):
    """Who needs an embedding: one attempt of one generation."""

    request_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """What is known of a stored embedding.

    Attributes:
        content_hash: Its key: hex digest of the encoded picture.
        size: Bytes.
        checksum: xxh3-64 of the bytes.
    """

    content_hash: str
    size: int
    checksum: int


@dataclass(slots=True)
class _Entry:
    embedding: Embedding
    array: Bytes
    segment: SharedSegment | None
    holders: set[Holder] = field(default_factory=set)


class EmbeddingStore:
    """Keeps embeddings by content; a service of a `TransferServer`. Thread-safe.

    An entry stays while anyone holds it. Entries that nobody holds serve later requests with the same picture, until
    room is needed: then the least recently used goes first.

    Args:
        incarnation: Identity of this process's store; a handle of another one is refused.
        budget_bytes: Bytes of all entries together.
        max_entries: Entries at most; each costs two file descriptors.
        backend: Wish.
    """

    opening: type[Frame] = Fetch

    def __init__(
        self,
        incarnation: str,
        budget_bytes: int,
        *,
        max_entries: int = 256,
        backend: TransferBackend = TransferBackend.AUTO,
    ) -> None:
        self.incarnation = incarnation
        self._budget_bytes = budget_bytes
        self._max_entries = max_entries
        self._backend = backend
        self._shared = backend is not TransferBackend.TCP and SharedSegment.available()
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._stats = TransferStats()

    @property
    def counts(self) -> TransferCounts:
        """What readers in other processes asked for so far."""
        return self._stats.counts

    @property
    def held_count(self) -> int:
        """Entries that somebody holds."""
        with self._lock:
            return sum(1 for entry in self._entries.values() if entry.holders)

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries that somebody holds."""
        with self._lock:
            return sum(entry.embedding.size for entry in self._entries.values() if entry.holders)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all entries."""
        with self._lock:
            return self._stored_bytes()

    def hold(self, content_hash: str, holder: Holder) -> Embedding | None:
        """Holds an entry for `holder`; None when there is no such entry. Idempotent."""
        with self._lock:
            entry = self._entries.get(content_hash)
            if entry is None:
                return None
            self._entries.move_to_end(content_hash)
            entry.holders.add(holder)
            return entry.embedding

    def put(self, content_hash: str, data: Bytes, holder: Holder) -> Embedding:
        """Copies an embedding in and holds it; an entry that is there already is kept as it is.

        Args:
            content_hash: Its key.
            data: Its bytes, uint8 [size].
            holder: Who needs it.

        Raises:
            ResourceExhausted: It does not fit beside the entries that are held.
            InvalidArgument: It is empty.
        """
        if data.size == 0:
            raise InvalidArgument("an embedding has at least one byte", field="data")
        with self._lock:
            if content_hash not in self._entries:
                self._make_room(data.size)
                self._entries[content_hash] = self._stored(content_hash, data)
            self._entries.move_to_end(content_hash)
            entry = self._entries[content_hash]
            entry.holders.add(holder)
            return entry.embedding

    def release(self, holder: Holder) -> int:
        """Gives back everything that `holder` holds; how many entries that were. Idempotent."""
        with self._lock:
            mine = [entry for entry in self._entries.values() if holder in entry.holders]
            for entry in mine:
                entry.holders.remove(holder)
            return len(mine)

    def read(self, incarnation: str, content_hash: str) -> Bytes:
        """The stored bytes, read-only uint8 [size].

        Raises:
            FailedPrecondition: `incarnation` is another store's.
            NotFound: There is no such entry.
        """
        return self._find(incarnation, content_hash).array

    def close(self) -> None:
        """Drops every entry; idempotent."""
        with self._lock:
            while self._entries:
                self._evict(next(iter(self._entries)))

    def serve(self, connection: Connection, first: Frame) -> None:
        """Answers one reader until it closes."""
        fetch = first
        while True:
            if not isinstance(fetch, Fetch):
                raise InvalidArgument(f"an embedding reader sends Fetch, not {type(fetch).__name__}")
            self._answer(connection, fetch)
            if not connection.wait():
                return
            fetch = connection.receive().frame

    def _answer(self, connection: Connection, fetch: Fetch) -> None:
        try:
            entry = self._find(fetch.incarnation, fetch.content_hash)
            shareable = entry.segment is not None and fetch.host_id == host_id()
            backend = agree(self._backend, fetch.backend, shareable=shareable)[0]
        except TriptychError as error:
            connection.send(Refusal(error.code, error.message))
            return
        embedding = entry.embedding
        counts = TransferCounts(chunks=1, bytes=embedding.size)
        if entry.segment is not None and backend is TransferBackend.SHARED_MEMORY:
            connection.send(Found(embedding.size, embedding.checksum, entry.segment.ref))
        else:
            found = Found(embedding.size, embedding.checksum, None)
            counts += TransferCounts(messages=connection.send(found, [entry.array.data]))
        self._stats.add(counts)

    def _find(self, incarnation: str, content_hash: str) -> _Entry:
        if incarnation != self.incarnation:
            raise FailedPrecondition(
                f"the embedding was made by worker incarnation {incarnation}; this is {self.incarnation}",
                field="incarnation",
            )
        with self._lock:
            entry = self._entries.get(content_hash)
        if entry is None:
            raise NotFound(f"no embedding of {content_hash} is stored", field="content_hash")
        return entry

    def _stored(self, content_hash: str, data: Bytes) -> _Entry:
        segment = SharedSegment.create(data.size) if self._shared else None
        array = np.empty(data.size, dtype=np.uint8) if segment is None else segment.array
        np.copyto(array, data)
        array.flags.writeable = False
        return _Entry(Embedding(content_hash, data.size, xxhash.xxh3_64_intdigest(array.data)), array, segment)

    def _make_room(self, size: int) -> None:
        free = [key for key, entry in self._entries.items() if not entry.holders]
        while self._stored_bytes() + size > self._budget_bytes or len(self._entries) >= self._max_entries:
            if not free:
                raise ResourceExhausted(
                    f"an embedding of {size} bytes does not fit: {len(self._entries)} of {self._max_entries} entries "
                    f"and {self._stored_bytes()} of {self._budget_bytes} bytes are held"
                )
            self._evict(free.pop(0))

    def _evict(self, content_hash: str) -> None:
        # A reader that is being served keeps the array, and with it the memory, until it is done.
        entry = self._entries.pop(content_hash)
        if entry.segment is not None:
            entry.segment.close()

    def _stored_bytes(self) -> int:
        return sum(entry.embedding.size for entry in self._entries.values())
