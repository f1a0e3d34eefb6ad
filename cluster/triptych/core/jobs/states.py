"""Where an operation of a decoder worker stands.

Prefill   Pulling ──▶ Computing ──▶ Sending ──▶ Delivered      with a ticket
                         ╰────────────────────╮               without one
Reserve   AwaitingBlocks ──▶ Receiving ──▶ Arrived ──▶ Decoding ──▶ Finished
                                                          ▲▼
                                                       Recalling
each of them ──▶ Failed   the router has been told, and will send Free
             ──▶ Freeing  Free has come; a transfer is being fenced
             ──▶ (gone)   Free has come; nothing had to be fenced
"""

from dataclasses import dataclass
from typing import assert_never

from triptych.core.generation import OperationKey
from triptych.core.jobs.commands import Prefill, Reserve, SessionId


@dataclass(frozen=True, slots=True)
class Nothing:
    """No sequence, no block."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A sequence, and blocks that no transfer touches."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Blocks that are being read for `chunks` chunks that nobody has acknowledged."""

    chunks: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """Blocks that a sender may write."""


Holding = Nothing | Blocks | Outgoing | Incoming
"""What a Free has to give back."""


@dataclass(frozen=True, slots=True)
class Pulling:
    """Embeddings are on their way; the scheduler does not know the sequence yet."""


@dataclass(frozen=True, slots=True)
class Computing:
    """The prompt is read.

    Attributes:
        input_seconds: What pulling took.
        started: When the first step of it began; None before.
        sent: Leading blocks that were pushed.
        chunks: Pushes that nobody has acknowledged.
    """

    input_seconds: float = 0.0
    started: float | None = None
    sent: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Sending:
    """The first token is told; `chunks` pushes are not acknowledged."""

    chunks: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The first token is told and every block acknowledged."""


@dataclass(frozen=True, slots=True)
class AwaitingBlocks:
    """A reservation that there are no blocks for yet."""


@dataclass(frozen=True, slots=True)
class Receiving:
    """A sender writes the blocks.

    Attributes:
        emitted: What Decode has said; empty before it has come.
    """

    emitted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrived:
    """The KV is here; Decode is not."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Tokens follow from steps."""


@dataclass(frozen=True, slots=True)
class Recalling:
    """It gave its blocks back; the embeddings are on their way, so that its KV can be computed again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last token is told."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The router has been told; what is held stays held until Free."""

    holding: Holding


@dataclass(frozen=True, slots=True)
class Freeing:
    """A transfer is being fenced; then each of `askers` is told that nothing is held."""

    askers: tuple[SessionId, ...]


State = (
    Pulling
    | Computing
    | Sending
    | Delivered
    | AwaitingBlocks
    | Receiving
    | Arrived
    | Decoding
    | Recalling
    | Finished
    | Failed
    | Freeing
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What was asked, and how far it is."""

    task: Prefill | Reserve
    state: State

    @property
    def key(self) -> OperationKey:
        """Which operation."""
        return self.task.key


def holding(state: State) -> Holding:
    """What is held in a state."""
    match state:
        case Pulling() | AwaitingBlocks():
            return Nothing()
        case Computing(chunks=chunks) | Sending(chunks):
            return outgoing(chunks)
        case Receiving():
            return Incoming()
        case Delivered() | Arrived() | Decoding() | Recalling() | Finished() | Freeing():
            return Blocks()
        case Failed(held):
            return held
        case _:
            assert_never(state)


def outgoing(chunks: int) -> Holding:
    """Blocks of which so many chunks are not acknowledged."""
    return Outgoing(chunks) if chunks else Blocks()
