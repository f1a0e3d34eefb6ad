"""What is posted to the compute thread."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.engine.sequence import Media
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.session import Session


@dataclass(frozen=True, slots=True)
class Command:
    """A router wants something.

    Attributes:
        received: Monotonic seconds.
    """

    session: Session
    request: pb.ConnectRequest
    received: float


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A router's stream is gone; so is its interest in everything it asked for."""

    session: Session


@dataclass(frozen=True, slots=True)
class Drained:
    """No new operation is taken from now on."""


@dataclass(frozen=True, slots=True)
class MediaPulled:
    """Embeddings are here, or cannot be had."""

    key: OperationKey
    media: tuple[Media, ...] | TriptychError
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkSent:
    """A pushed chunk was acknowledged, or could not be delivered."""

    key: OperationKey
    error: TriptychError | None


@dataclass(frozen=True, slots=True)
class KvComplete:
    """Every block of a ticket has arrived and was verified."""

    ticket_id: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class KvFailed:
    """A ticket's blocks will never be complete."""

    ticket_id: str
    error: TriptychError


@dataclass(frozen=True, slots=True)
class Fenced:
    """No transfer touches the request's blocks any more."""

    key: OperationKey


Message = Command | SessionEnded | Drained | MediaPulled | ChunkSent | KvComplete | KvFailed | Fenced
