"""What a desk wants done, in this order."""

from dataclasses import dataclass

from triptych.core.desk.entry import Entry
from triptych.core.request.actions import Action


@dataclass(frozen=True, slots=True)
class Perform:
    """Carry an action of a request out; `Place` has been seen to, and makes earlier attempts' payloads void."""

    entry: Entry
    action: Action


@dataclass(frozen=True, slots=True)
class Cut:
    """End the stream to a worker that has been given up."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class TellDrain:
    """Have a worker refuse new work."""

    worker_id: str


Order = Perform | Cut | TellDrain
Orders = list[Order]
