"""What rank 0 and the others say to each other about transfers."""

from dataclasses import dataclass

from triptych.core.errors import TriptychError
from triptych.transfer import Endpoint, Heads


@dataclass(frozen=True, slots=True)
class OpenLease:
    """Let whoever has the ticket write these blocks; as `KvReceiver.open`."""

    ticket_id: str
    request_id: str
    epoch: int
    block_ids: tuple[int, ...]
    router_id: str


@dataclass(frozen=True, slots=True)
class CloseLease:
    """End a lease; answered when nothing writes its blocks any more."""

    ticket_id: str


@dataclass(frozen=True, slots=True)
class Share:
    """Some heads of every block, and the rank of another replica that they go to, or that they are for."""

    endpoint: Endpoint
    heads: Heads


@dataclass(frozen=True, slots=True)
class SendBlocks:
    """Send a rank's shares of some blocks; answered when all of them have arrived, or one cannot.

    Attributes:
        first: Position of the first block in the ticket's.
        last: Whether the prompt ends with these blocks.
        shares: One chunk for each.
    """

    ticket_id: str
    first: int
    block_ids: tuple[int, ...]
    last: bool
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class StopSending:
    """Drop a ticket's chunks; answered when no byte of them is read any more."""

    ticket_id: str


@dataclass(frozen=True, slots=True)
class RenewLeases:
    """A heartbeat of a router."""

    router_id: str


Command = OpenLease | CloseLease | SendBlocks | StopSending | RenewLeases


@dataclass(frozen=True, slots=True)
class Order:
    """Rank 0 → another rank; numbers grow by one."""

    number: int
    command: Command


@dataclass(frozen=True, slots=True)
class Done:
    """Answers an order."""

    number: int
    error: TriptychError | None = None


@dataclass(frozen=True, slots=True)
class Arrived:
    """Every block of a ticket is in the rank's pool and was verified; `seconds` were spent on that."""

    ticket_id: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The rank has ended a ticket's lease before its blocks were complete; nothing writes them any more."""

    ticket_id: str
    error: TriptychError


Report = Done | Arrived | Lapsed
