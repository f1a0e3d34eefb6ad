"""The encode side of an embedding transfer: bytes by content, that wait for their readers."""

import logging
import threading
from dataclasses import dataclass

import numpy as np
import xxhash

from triptych.core.errors import InvalidArgument, ResourceExhausted, TriptychError, Unavailable
from triptych.transfer.backend import TransferBackend, agree
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Fetch, Found, Frame, Refusal
from triptych.transfer.host import host_id
from triptych.transfer.segment import Bytes, SharedSegment
from triptych.transfer.stats import TransferCounts, TransferStats

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    embedding: Embedding
    array: Bytes
    segment: SharedSegment | None


class EmbeddingStore:
    """Keeps embeddings by content; a service of a `TransferServer`. Thread-safe.

    What is put stays until it is forgotten; who needs what for how long is decided elsewhere.

    Args:
        incarnation: Identity of this process's store; a handle of another one is refused.
        max_shared: Entries in shared memory. Each costs two file descriptors, so those beyond it are kept in memory
            of the process and travel over TCP.
        backend: Wish.
    """

    opening: type[Frame] = Fetch

    def __init__(
        self, incarnation: str, *, max_shared: int = 256, backend: TransferBackend = TransferBackend.AUTO
    ) -> None:
        self.incarnation = incarnation
        self.max_shared = max_shared
        self._backend = backend
        self._shared = backend is not TransferBackend.TCP and SharedSegment.available()
        self._lock = threading.Lock()
        self._stored: dict[str, _Stored] = {}
        self._stats = TransferStats()

    @property
    def counts(self) -> TransferCounts:
        """What readers on other connections asked for so far."""
        return self._stats.counts

    @property
    def count(self) -> int:
        """Entries."""
        return len(self._stored)

    def __contains__(self, content_hash: str) -> bool:
        return content_hash in self._stored

    def put(self, content_hash: str, data: Bytes) -> Embedding:
        """Copies an embedding in, in place of an older one; who is reading that keeps it until done.

        Args:
            content_hash: Its key.
            data: Its bytes, uint8 [size].

        Raises:
            InvalidArgument: It is empty.
        """
        if data.size == 0:
            raise InvalidArgument("an embedding has at least one byte", field="data")
        with self._lock:
            older, stored = self._stored.get(content_hash), self._copy(content_hash, data)
            self._stored[content_hash] = stored
        _release(older)
        return stored.embedding

    def embedding(self, content_hash: str) -> Embedding:
        """What is known of an entry.

        Raises:
            Unavailable: There is no such entry.
        """
        return self._find(self.incarnation, content_hash).embedding

    def forget(self, content_hash: str) -> None:
        """Gives the memory of an entry back; idempotent."""
        with self._lock:
            stored = self._stored.pop(content_hash, None)
        _release(stored)

    def read(self, incarnation: str, content_hash: str) -> Bytes:
        """The stored bytes, read-only uint8 [size].

        Raises:
            Unavailable: `incarnation` is another store's, or there is no such entry.
        """
        return self._find(incarnation, content_hash).array

    def close(self) -> None:
        """Forgets every entry; idempotent."""
        for content_hash in tuple(self._stored):
            self.forget(content_hash)

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
            stored = self._find(fetch.incarnation, fetch.content_hash)
            shareable = stored.segment is not None and fetch.host_id == host_id()
            backend = agree(self._backend, fetch.backend, shareable=shareable)[0]
        except TriptychError as error:
            connection.send(Refusal.of(error))
            return
        size, checksum = stored.embedding.size, stored.embedding.checksum
        if stored.segment is not None and backend is TransferBackend.SHARED_MEMORY:
            connection.send(Found(size, checksum, stored.segment.ref))
            self._stats.add(TransferCounts(chunks=1, bytes=size))
        else:
            calls = connection.send(Found(size, checksum, None), [stored.array.data])
            self._stats.add(TransferCounts(chunks=1, bytes=size, messages=calls))

    def _find(self, incarnation: str, content_hash: str) -> _Stored:
        if incarnation != self.incarnation:
            raise Unavailable(
                f"the embedding was made by worker incarnation {incarnation}; this is {self.incarnation}",
                field="incarnation",
            )
        stored = self._stored.get(content_hash)
        if stored is None:
            raise Unavailable(f"no embedding of {content_hash} is stored", field="content_hash")
        return stored

    def _copy(self, content_hash: str, data: Bytes) -> _Stored:
        segment = self._segment(data.size)
        array = np.empty(data.size, dtype=np.uint8) if segment is None else segment.array
        np.copyto(array, data)
        array.flags.writeable = False
        embedding = Embedding(content_hash, data.size, xxhash.xxh3_64_intdigest(array.data))
        return _Stored(embedding, array, segment)

    def _segment(self, size: int) -> SharedSegment | None:
        if not self._shared or len(self._stored) >= self.max_shared:
            return None
        try:
            return SharedSegment.create(size)
        except ResourceExhausted as error:
            _log.warning("an embedding will travel over TCP: %s", error)
            return None


def _release(stored: _Stored | None) -> None:
    """A reader that is being served keeps the array, and with it the memory, until it is done."""
    if stored and stored.segment:
        stored.segment.close()
