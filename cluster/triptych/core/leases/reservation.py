"""One reservation of KV blocks: its states and the transitions between them. Pure.

    open ──▶ Open ◀──begin/end──▶ Receiving        a chunk is being written
              │ last block                │ close, expire
              ▼                           ▼
            Complete                    Closing    fenced: no new chunk, the one in flight must end
              │ close, expire             │ end
              └──────────▶ (gone) ◀───────┘

A reservation is gone once nothing can write into its blocks any more. Every state but Closing is a lease: it is over
at `expires_at` unless its router renewed it.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from triptych.core.errors import InvalidArgument
from triptych.core.generation import OperationKey

# A chunk is sent at most this many times more after its checksum was wrong.
MAX_MISMATCHES = 2


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks of the pool that one prefill may fill.

    Attributes:
        ticket_id: Names the reservation; whoever knows it may write.
        router_id: Whose heartbeats renew the lease.
        request_id: The generation.
        epoch: Its attempt.
        block_ids: Reserved blocks, in the order of the sequence.
        expected_blocks: How many of them the prompt fills.
    """

    ticket_id: str
    router_id: str
    request_id: str
    epoch: int
    block_ids: tuple[int, ...]
    expected_blocks: int

    def __post_init__(self) -> None:
        if not 1 <= self.expected_blocks <= len(self.block_ids):
            raise InvalidArgument(
                f"expected_blocks must be 1 to {len(self.block_ids)}, got {self.expected_blocks}",
                field="expected_blocks",
            )
        if len(set(self.block_ids)) != len(self.block_ids):
            raise InvalidArgument("block_ids of a reservation must differ from each other", field="block_ids")

    @property
    def key(self) -> OperationKey:
        """The operation that holds the blocks."""
        return OperationKey(self.request_id, self.epoch)


@dataclass(frozen=True, slots=True)
class Open:
    """Waits for the chunk that starts at block `received`; `seconds` were spent on receiving so far."""

    reservation: Reservation
    expires_at: float
    received: int = 0
    seconds: float = 0.0
    mismatches: int = 0


@dataclass(frozen=True, slots=True)
class Receiving:
    """Blocks from `before.received` up to `until` are being written."""

    before: Open
    until: int

    @property
    def reservation(self) -> Reservation:
        """Whose blocks."""
        return self.before.reservation


@dataclass(frozen=True, slots=True)
class Closing:
    """Closed while blocks were being written; holds them until the write has ended."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Complete:
    """Every expected block is here and verified; nothing is written any more."""

    reservation: Reservation
    expires_at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Closed:
    """Closed by its owner; the reservation is gone."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Damaged too often; the reservation is gone."""

    reservation: Reservation


State = Open | Receiving | Closing | Complete


class Outcome(Enum):
    """How a write ended: all bytes verified, all bytes but another checksum, or the sender went away."""

    ARRIVED = auto()
    DAMAGED = auto()
    INTERRUPTED = auto()


def check_fit(reservation: Reservation, first: int, count: int, last: bool) -> None:
    """Raises InvalidArgument unless blocks `first` to `first + count` are expected and `last` says so truly."""
    end, expected = first + count, reservation.expected_blocks
    if count < 1 or end > expected or last != (end == expected):
        raise InvalidArgument(
            f"ticket {reservation.ticket_id} expects {expected} blocks; "
            f"got blocks {first} to {end - 1}{' as the last' if last else ''}",
            field="block_ids",
        )


def after(state: Receiving, outcome: Outcome, seconds: float) -> Open | Complete | Lost:
    """The state that follows a write."""
    before = replace(state.before, seconds=state.before.seconds + seconds)
    match outcome:
        case Outcome.ARRIVED if state.until == before.reservation.expected_blocks:
            return Complete(before.reservation, before.expires_at, before.seconds)
        case Outcome.ARRIVED:
            return replace(before, received=state.until, mismatches=0)
        case Outcome.DAMAGED if before.mismatches == MAX_MISMATCHES:
            return Lost(before.reservation)
        case Outcome.DAMAGED:
            return replace(before, mismatches=before.mismatches + 1)
        case Outcome.INTERRUPTED:
            return before


def renewed(state: State, expires_at: float) -> State:
    """The same state with a longer lease."""
    match state:
        case Open() | Complete():
            return replace(state, expires_at=expires_at)
        case Receiving(before):
            return replace(state, before=replace(before, expires_at=expires_at))
        case Closing():
            return state


def expiry(state: State) -> float:
    """When the lease is over; never for a reservation that is ending anyway."""
    match state:
        case Open() | Complete():
            return state.expires_at
        case Receiving(before):
            return before.expires_at
        case Closing():
            return float("inf")
