"""What becomes of a decoder worker's streams, transfers and steps."""

from dataclasses import dataclass
from typing import NamedTuple

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.jobs.commands import SessionId


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A router's stream is gone; so is its interest in everything it asked for."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class EmbeddingsPulled:
    """All embeddings of an operation are here; fetching them took so long."""

    key: OperationKey
    seconds: float


@dataclass(frozen=True, slots=True)
class EmbeddingsFailed:
    """Not all of them can be had."""

    key: OperationKey
    error: TriptychError


@dataclass(frozen=True, slots=True)
class ChunkAcknowledged:
    """The blocks of one `PushBlocks` are where they belong."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """The blocks of one `PushBlocks` cannot be delivered."""

    key: OperationKey
    error: TriptychError


@dataclass(frozen=True, slots=True)
class KvComplete:
    """Every block of a lease has arrived and was verified; the seconds were spent on receiving."""

    ticket_id: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class KvFailed:
    """A lease ended before its blocks were complete; nothing writes them any more."""

    ticket_id: str
    error: TriptychError


@dataclass(frozen=True, slots=True)
class Fenced:
    """Answers `StopSending` and `StopReceiving`: no transfer touches the operation's blocks any more."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Computed:
    """The KV of an operation's leading tokens is in the cache; found there or computed."""

    key: OperationKey
    tokens: int


class Sampled(NamedTuple):
    """A token of the answer.

    Attributes:
        position: Its place in the answer, from 0.
        finish_reason: Set with the last one.
        cached_tokens: Prompt tokens whose KV was in the cache when the operation began.
    """

    key: OperationKey
    position: int
    token: GeneratedToken
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of the engine has ended.

    Attributes:
        started: Monotonic seconds.
        prompts: How far the operations have come whose prompts were in it.
        tokens: What it yielded.
    """

    started: float
    prompts: tuple[Computed, ...]
    tokens: tuple[Sampled, ...]


@dataclass(frozen=True, slots=True)
class Stalled:
    """An operation gave its blocks back, and needs its embeddings again before it can go on."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Faulted:
    """A step of an operation, or an action for it, has raised."""

    key: OperationKey
    error: TriptychError


@dataclass(frozen=True, slots=True)
class Expired:
    """The operation's deadline has passed."""

    key: OperationKey


Event = (
    SessionEnded
    | EmbeddingsPulled
    | EmbeddingsFailed
    | ChunkAcknowledged
    | ChunkFailed
    | KvComplete
    | KvFailed
    | Fenced
    | Stepped
    | Stalled
    | Faulted
)
