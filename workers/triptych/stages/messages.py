"""What is posted to the compute thread."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.core.jobs.events import ChunkAcknowledged, ChunkFailed, Fenced, KvComplete, KvFailed
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


Message = (
    Command | SessionEnded | Drained | MediaPulled | ChunkAcknowledged | ChunkFailed | KvComplete | KvFailed | Fenced
)


@dataclass(frozen=True, slots=True)
class Unfenced:
    """A transfer may touch an operation's blocks for ever: nobody else can have them, and the worker has to end."""

    key: OperationKey
    error: Exception
