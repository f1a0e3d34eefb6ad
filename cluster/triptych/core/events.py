"""What can happen to a request, and what the router then does. Payloads (handles, tickets) stay with the adapter."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.plan import Plan


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The request got its workers."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ImagesEncoded:
    """A worker keeps the embeddings of these images."""

    indices: frozenset[int]


@dataclass(frozen=True, slots=True)
class BlocksReserved:
    """The decode worker holds blocks for the prompt."""


@dataclass(frozen=True, slots=True)
class TokensArrived:
    """Tokens of the answer, from the prefill worker (the first) or the decode worker."""

    tokens: tuple[GeneratedToken, ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class KvArrived:
    """The decode worker has verified every block of the prompt."""


@dataclass(frozen=True, slots=True)
class StageFailed:
    """A worker cannot go on with the request."""

    worker_id: str
    error: TriptychError


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's process or connection is gone, and everything it held with it."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class StopTextFound:
    """The text of the answer reached one of its stop texts."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Nobody waits for the answer any more: cancelled, client gone or deadline passed."""

    error: TriptychError


@dataclass(frozen=True, slots=True)
class HolderFreed:
    """A worker has given back what it held."""

    worker_id: str


Event = (
    Dispatched
    | ImagesEncoded
    | BlocksReserved
    | TokensArrived
    | KvArrived
    | StageFailed
    | WorkerLost
    | StopTextFound
    | Abandoned
    | HolderFreed
)


@dataclass(frozen=True, slots=True)
class SendEncode:
    """Have a worker encode these images."""

    worker_id: str
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SendReserve:
    """Have the decode worker reserve blocks."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class SendPrefill:
    """Have a worker prefill; with a ticket it sends the KV away."""

    worker_id: str
    with_ticket: bool


@dataclass(frozen=True, slots=True)
class SendDecode:
    """Let the decode worker go on after the first token."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class SendFree:
    """Have a worker give back what it holds for the request."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand tokens to the client."""

    tokens: tuple[GeneratedToken, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Tell the client that the answer is complete, or why it never will be."""

    outcome: FinishReason | TriptychError


Action = SendEncode | SendReserve | SendPrefill | SendDecode | SendFree | Deliver | End
