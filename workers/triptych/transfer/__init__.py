"""Movement of KV pages (prefill → decode) and of embeddings (encode → prefill) between worker processes.

Both go through the `TransferServer` of the worker that is connected to. Descriptors travel over TCP; the bytes lie in
shared memory when both workers can map it, and follow their descriptor otherwise. The reader copies, and verifies
its own copy: nobody writes into another process's memory. ::

    KvSender (prefill)                            KvReceiver (decode)
        │                                             │ open(ticket, blocks): a lease on blocks
        │ Hello(wish, geometry, segment) ───────────▶ │ maps the segment, or not
        │ ◀──────────────────────── Welcome(backend)  │
        │ Chunk(ticket, first, runs, heads, checksum) │
        │   [pages, over TCP] ──────────────────────▶ │ copies into its blocks, verifies them
        │ ◀─────────────────────────── Ack            │ … Nak: send again, twice at most
        │                                             │ … Refusal(code, message): ticket closed, out of order
        │                                             │ last chunk: on_complete(ticket)

    pull (prefill)                                EmbeddingStore (encode)
        │ Fetch(incarnation, content hash, wish) ───▶ │
        │ ◀──────── Found(size, checksum, segment)    │
        │                         [bytes, over TCP]   │ … or Refusal
        │ copies, verifies                            │

Where a replica has several ranks each of them sends and receives for itself: a chunk brings the heads that both ranks
hold (`heads`), and a ticket's blocks are complete when every head of them has come.

Threads and blocking sockets, no event loop: copies, checksums and socket calls release the GIL.
"""

from triptych.transfer.backend import Timeouts, TransferBackend
from triptych.transfer.embeddings import Embedding, EmbeddingStore
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.heads import HeadMove, Heads, head_plan
from triptych.transfer.host import host_id
from triptych.transfer.link import SendResult
from triptych.transfer.pull import EmbeddingHandle, pull
from triptych.transfer.receiver import KvReceiver
from triptych.transfer.segment import SegmentRef, SharedSegment
from triptych.transfer.sender import KvSender
from triptych.transfer.server import Endpoint, TransferServer
from triptych.transfer.stats import TransferCounts

__all__ = [
    "Embedding",
    "EmbeddingHandle",
    "EmbeddingStore",
    "Endpoint",
    "HeadMove",
    "Heads",
    "KvReceiver",
    "KvSender",
    "PoolGeometry",
    "SegmentRef",
    "SendResult",
    "SharedSegment",
    "Timeouts",
    "TransferBackend",
    "TransferCounts",
    "TransferServer",
    "head_plan",
    "host_id",
    "pull",
]
