"""What two transfer peers say to each other. Pure data; `codec` turns it into bytes."""

from dataclasses import dataclass
from typing import Self

from triptych.core.errors import TriptychError
from triptych.transfer.backend import TransferBackend
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.heads import Heads
from triptych.transfer.runs import Run
from triptych.transfer.segment import SegmentRef

# Characters of one text field.
MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Hello:
    """Sender → receiver, first: who I am and how I would like to send.

    Attributes:
        backend: The sender's wish.
        host_id: Of the sender.
        geometry: Of the sender's pool.
        segment: The sender's pool, when it is shared.
    """

    backend: TransferBackend
    host_id: str
    geometry: PoolGeometry
    segment: SegmentRef | None


@dataclass(frozen=True, slots=True)
class Welcome:
    """Receiver → sender: the backend of this connection, `SHARED_MEMORY` or `TCP`."""

    backend: TransferBackend


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sender → receiver: some heads of some blocks of a ticket; over TCP their bytes follow as payload.

    Attributes:
        ticket_id: Whose blocks.
        first: Position of the first block in the ticket's block list.
        runs: Where the blocks lie in the sender's pool.
        last: Whether the prompt ends with this chunk.
        checksum: xxh3-64 of the bytes in (layer, block, side, head) order, as the payload has them.
        heads: Of the model.
    """

    ticket_id: str
    first: int
    runs: tuple[Run, ...]
    last: bool
    checksum: int
    heads: Heads


@dataclass(frozen=True, slots=True)
class Ack:
    """Receiver → sender: the chunk is here and whole."""

    ticket_id: str
    first: int


@dataclass(frozen=True, slots=True)
class Nak:
    """Receiver → sender: the chunk came with another checksum; send it again."""

    ticket_id: str
    first: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Either way: no, with a google.rpc.Code and the reason in plain words."""

    code: int
    message: str

    @classmethod
    def of(cls, error: TriptychError) -> Self:
        """The error as it travels; a very long message is cut."""
        return cls(error.code, error.message[:MAX_TEXT])


@dataclass(frozen=True, slots=True)
class Fetch:
    """Reader → store, first: where is this embedding?

    Attributes:
        incarnation: The store that made it.
        content_hash: Its key.
        backend: The reader's wish.
        host_id: Of the reader.
    """

    incarnation: str
    content_hash: str
    backend: TransferBackend
    host_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """Store → reader: the embedding lies in `segment`, or follows as payload when there is none."""

    size: int
    checksum: int
    segment: SegmentRef | None


Frame = Hello | Welcome | Chunk | Ack | Nak | Refusal | Fetch | Found
