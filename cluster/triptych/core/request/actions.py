"""What the router does for a request. Commands name the attempt (epoch) that they belong to."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken


@dataclass(frozen=True, slots=True)
class Place:
    """Find workers for the attempt that begins now; payloads of earlier ones are void."""


@dataclass(frozen=True, slots=True)
class SendEncode:
    """Have a worker encode these images."""

    worker_id: str
    epoch: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SendReserve:
    """Have the decode worker reserve blocks for the prompt and the first `emitted` tokens of the answer."""

    worker_id: str
    epoch: int
    emitted: int


@dataclass(frozen=True, slots=True)
class SendPrefill:
    """Have a worker compute the prompt and the first `emitted` tokens; with a ticket it sends the KV away."""

    worker_id: str
    epoch: int
    emitted: int
    with_ticket: bool


@dataclass(frozen=True, slots=True)
class SendDecode:
    """Let the decode worker go on after the first `emitted` tokens of the answer."""

    worker_id: str
    epoch: int
    emitted: int


@dataclass(frozen=True, slots=True)
class SendFree:
    """Have a worker give back what it holds for the attempt."""

    worker_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand tokens to the client."""

    tokens: tuple[GeneratedToken, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Tell the client that the answer is complete, or why it never will be."""

    outcome: FinishReason | TriptychError


Action = Place | SendEncode | SendReserve | SendPrefill | SendDecode | SendFree | Deliver | End
