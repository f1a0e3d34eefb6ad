"""What travels in the simulated cluster: the payloads of the stage protocol, without its encoding."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.core.fleet.worker import Introduction, Report
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.jobs.actions import Failed, Freed, KvReady, PrefillDone, Tokens


@dataclass(frozen=True, slots=True)
class Span:
    """The positions `[start, start + length)` of a prompt stand for a picture, which its content names."""

    start: int
    length: int
    picture: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: token ids (those of pictures are all the same), pictures, and how the answer is drawn.

    Attributes:
        limit: Tokens of the answer at most.
    """

    token_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    seed: int
    limit: int


@dataclass(frozen=True, slots=True)
class Handle:
    """Embeddings that a process keeps."""

    index: int
    picture: str
    worker_id: str
    incarnation: str
    checksum: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to write into reserved blocks of a process."""

    ticket_id: str
    worker_id: str
    incarnation: str
    blocks: int


@dataclass(frozen=True, slots=True)
class Hello:
    """First of a stream."""

    router_id: str


@dataclass(frozen=True, slots=True)
class Encode:
    """Pictures by their places, `anew` where embeddings of them were found damaged.

    `timeout` as in every command: seconds left, None for no deadline.
    """

    key: OperationKey
    images: tuple[tuple[int, str], ...]
    timeout: float | None
    anew: bool


@dataclass(frozen=True, slots=True)
class Reserve:
    """Blocks for a prompt and the answer so far."""

    key: OperationKey
    prompt: Prompt
    emitted: tuple[int, ...]
    handles: tuple[Handle, ...]
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Prefill:
    """Compute a prompt and the answer so far."""

    key: OperationKey
    prompt: Prompt
    emitted: tuple[int, ...]
    handles: tuple[Handle, ...]
    ticket: Ticket | None
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Decode:
    """Go on behind these tokens."""

    key: OperationKey
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Free:
    """Give back."""

    key: OperationKey


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The router lives."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new work."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """First answer of a stream."""

    introduction: Introduction


@dataclass(frozen=True, slots=True)
class EncodeDone:
    """Embeddings are kept."""

    key: OperationKey
    handles: tuple[Handle, ...]


@dataclass(frozen=True, slots=True)
class Reserved:
    """Blocks are kept."""

    key: OperationKey
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A worker's own account."""

    report: Report


ToWorker = Hello | Encode | Reserve | Prefill | Decode | Free | Heartbeat | Drain
ToRouter = Welcome | EncodeDone | Reserved | PrefillDone | KvReady | Tokens | Freed | Failed | LoadReport


@dataclass(frozen=True, slots=True)
class Ask:
    """A client's request; `received` are the tokens that it has, when it comes back.

    Attributes:
        timeout: Seconds until its deadline.
        linger: Seconds that the request goes on without it.
        colocated: None where the router may choose.
    """

    request_id: str
    prompt: Prompt
    colocated: bool | None
    timeout: float | None
    linger: float
    received: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Said:
    """Tokens for a client."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer."""

    outcome: FinishReason | TriptychError


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request was not taken."""

    error: TriptychError


ToClient = Said | Done | Refusal
