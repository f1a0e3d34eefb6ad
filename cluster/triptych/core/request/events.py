"""What can happen to a request. Payloads (handles, tickets) stay with the adapter.

What a worker says names the worker and the attempt (epoch) that it speaks of.
"""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.plan import Plan
from triptych.core.request.record import Terms


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The request got its workers."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ImagesEncoded:
    """A worker keeps the embeddings of these images."""

    worker_id: str
    epoch: int
    indices: frozenset[int]


@dataclass(frozen=True, slots=True)
class BlocksReserved:
    """The decode worker holds blocks for prompt and answer so far."""

    worker_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TokensArrived:
    """Tokens of the answer, the first of them at position `first` of it.

    Without a token, but with a `finish_reason`: the answer that the worker was told of is as long as it can be there.
    """

    worker_id: str
    epoch: int
    first: int
    tokens: tuple[GeneratedToken, ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class KvArrived:
    """The decode worker has verified every block that was sent to it."""

    worker_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A worker cannot go on with the request."""

    worker_id: str
    epoch: int
    error: TriptychError


@dataclass(frozen=True, slots=True)
class HolderFreed:
    """A worker has given back what it held."""

    worker_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's process or stream is gone, and everything it held with it."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerDrained:
    """A worker is being taken out and will not wait any longer: whoever needs it goes on elsewhere."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The answer is complete although no worker said so: at a stop text, or its client came with all of it."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class ClientLeft:
    """The client's connection has ended: with an error, or because the answer was told to its end."""

    error: TriptychError | None


@dataclass(frozen=True, slots=True)
class ClientReturned:
    """The client is there again, on the terms of its new call."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Nobody may have the answer any more: cancelled, or a defect of the router."""

    error: TriptychError


@dataclass(frozen=True, slots=True)
class TimePassed:
    """It may be later than the request allows."""


FromWorker = ImagesEncoded | BlocksReserved | TokensArrived | KvArrived | StageFailed | HolderFreed
Event = (
    FromWorker
    | Dispatched
    | WorkerLost
    | WorkerDrained
    | Completed
    | ClientLeft
    | ClientReturned
    | Abandoned
    | TimePassed
)
