"""The desk's books, checked against each other."""

from collections.abc import Iterable
from dataclasses import dataclass

from triptych.core.desk.entry import Entry
from triptych.core.fleet.load import NOTHING, Load
from triptych.core.request.load import load_of
from triptych.core.request.record import Holding


@dataclass(frozen=True, slots=True)
class Audit:
    """What a desk holds at one moment.

    Attributes:
        running: Requests whose answer is being made.
        waiting: Those of them that have no workers.
        ended: Requests that somebody still has something to hear of.
        holdings: Who may hold something, Free sent or not.
        booked: Load by worker, as it is booked.
        owed: Load by worker, as the requests' states say.
    """

    running: int
    waiting: int
    ended: int
    holdings: tuple[Holding, ...]
    booked: dict[str, Load]
    owed: dict[str, Load]

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return not (self.running or self.waiting or self.ended or self.holdings or self.booked)

    @property
    def balanced(self) -> bool:
        """Whether the books agree with the requests."""
        return self.booked == self.owed


def audit(entries: Iterable[Entry], waiting: int, booked: dict[str, Load]) -> Audit:
    """Takes stock."""
    known = tuple(entries)
    owed: dict[str, Load] = {}
    for entry in known:
        for worker_id, load in load_of(entry.record, entry.demand).items():
            owed[worker_id] = owed.get(worker_id, NOTHING) + load
    running = sum(entry.running for entry in known)
    holdings = tuple(sorted(h for entry in known for h in (*entry.record.holders, *entry.record.freeing)))
    return Audit(running, waiting, len(known) - running, holdings, booked, owed)
