"""How two workers move bytes, and how they agree on it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from triptych.core.errors import FailedPrecondition


class TransferBackend(StrEnum):
    """What a worker asks for; `AUTO` takes shared memory on one host and TCP between hosts."""

    AUTO = "auto"
    SHARED_MEMORY = "shared_memory"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Patience of a transfer, in seconds.

    Attributes:
        connect: For a connection to be opened.
        stall: For a peer that owes bytes and sends none.
        fence: For a chunk in flight to end by itself before its connection is cut.
    """

    connect: float = 5.0
    stall: float = 30.0
    fence: float = 1.0


def agree(mine: TransferBackend, theirs: TransferBackend, *, shareable: bool) -> tuple[TransferBackend, ...]:
    """The backends that both sides accept, best first.

    Args:
        mine: Wish of this side.
        theirs: Wish of the peer.
        shareable: Whether the owner's memory is a shared segment of this host.

    Raises:
        FailedPrecondition: There is none, such as forced shared memory between two hosts.
    """
    accepted = tuple(
        backend
        for backend in (TransferBackend.SHARED_MEMORY, TransferBackend.TCP)
        if mine in (backend, TransferBackend.AUTO)
        and theirs in (backend, TransferBackend.AUTO)
        and (shareable or backend is TransferBackend.TCP)
    )
    if not accepted:
        where = "can" if shareable else "cannot"
        raise FailedPrecondition(
            f"no transfer backend fits: one worker wants {mine.value}, the other {theirs.value}, "
            f"and they {where} share memory",
            field="transfer_backend",
        )
    return accepted
