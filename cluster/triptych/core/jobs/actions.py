"""What a decoder worker's adapter is to do, in this order."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.core.jobs.commands import SessionId
from triptych.core.jobs.events import Sampled


@dataclass(frozen=True, slots=True)
class PullEmbeddings:
    """Fetch the operation's embeddings; answered by `EmbeddingsPulled` or `EmbeddingsFailed`."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class DropPull:
    """Nobody waits for the embeddings any more; an answer that comes all the same is ignored."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Add:
    """Queue the operation's sequence at the scheduler."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Park:
    """Stop the sequence; it keeps its blocks."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Release:
    """Stop the sequence and take its blocks back."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Start:
    """Let a reserved sequence decode, behind these tokens of the answer."""

    key: OperationKey
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Supply:
    """Give a stalled sequence its embeddings."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class PushBlocks:
    """Send the blocks `first` to `until` of the sequence; answered by `ChunkAcknowledged` or `ChunkFailed`."""

    key: OperationKey
    ticket_id: str
    first: int
    until: int
    last: bool


@dataclass(frozen=True, slots=True)
class OpenLease:
    """Let whoever has the ticket write the operation's blocks; ends in `KvComplete`, `KvFailed` or an action."""

    key: OperationKey
    ticket_id: str


@dataclass(frozen=True, slots=True)
class CloseLease:
    """End a lease whose blocks are complete."""

    ticket_id: str
    key: OperationKey


@dataclass(frozen=True, slots=True)
class StopSending:
    """Fence the operation's chunks; answered by `Fenced`."""

    key: OperationKey
    ticket_id: str


@dataclass(frozen=True, slots=True)
class StopReceiving:
    """Fence the operation's blocks; answered by `Fenced`."""

    key: OperationKey
    ticket_id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The operation is over; so is everything that was kept for it."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Times:
    """Where the seconds until the first token went."""

    queue: float
    input: float
    compute: float


@dataclass(frozen=True, slots=True)
class Reserved:
    """Answers Reserve."""

    key: OperationKey
    ticket_id: str


@dataclass(frozen=True, slots=True)
class PrefillDone:
    """Answers Prefill."""

    token: Sampled
    times: Times

    @property
    def key(self) -> OperationKey:
        """Whose token."""
        return self.token.key


@dataclass(frozen=True, slots=True)
class KvReady:
    """Every block has arrived and was verified."""

    key: OperationKey
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """All tokens of one step for one router, but those that answer Prefill."""

    tokens: tuple[Sampled, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """Answers Free: nothing is held any more."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Failed:
    """The operation cannot go on; what it holds stays held until Free."""

    key: OperationKey
    error: TriptychError


Answer = Reserved | PrefillDone | KvReady | Tokens | Freed | Failed


@dataclass(frozen=True, slots=True)
class Tell:
    """Send an answer to a router."""

    session: SessionId
    answer: Answer


Action = (
    PullEmbeddings
    | DropPull
    | Add
    | Park
    | Release
    | Start
    | Supply
    | PushBlocks
    | OpenLease
    | CloseLease
    | StopSending
    | StopReceiving
    | Forget
    | Tell
)
