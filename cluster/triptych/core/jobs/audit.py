"""Who holds what on a decoder worker at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from triptych.core.generation import OperationKey
from triptych.core.jobs.states import Freeing, Incoming, Nothing, Operation, holding


@dataclass(frozen=True, slots=True)
class Audit:
    """The books of `Jobs`.

    Attributes:
        operations: Every operation that is not over.
    """

    operations: Mapping[OperationKey, Operation]

    @property
    def by_state(self) -> dict[str, int]:
        """Operations per state."""
        counts: dict[str, int] = {}
        for operation in self.operations.values():
            name = type(operation.state).__name__
            counts[name] = counts.get(name, 0) + 1
        return counts

    @property
    def sequences(self) -> frozenset[OperationKey]:
        """Operations whose sequence the scheduler must have, with or without blocks."""
        return frozenset(key for key, op in self.operations.items() if holding(op.state) != Nothing())

    @property
    def leases(self) -> frozenset[str]:
        """Tickets that may be written with."""
        return frozenset(op.task.ticket_id for op in self.operations.values() if holding(op.state) == Incoming())

    def problems(self, sequences: Iterable[OperationKey], leases: Iterable[str]) -> tuple[str, ...]:
        """What does not fit, in plain words; nothing when the books are in order.

        Args:
            sequences: What the scheduler has.
            leases: Tickets of the leases that are open.
        """
        there = frozenset(sequences)
        known = self.leases | {op.task.ticket_id for op in self.operations.values() if isinstance(op.state, Freeing)}
        return (
            *(f"{_name(key)} holds blocks and is no operation" for key in _sorted(there - self.sequences)),
            *(f"{_name(key)} has lost its sequence" for key in _sorted(self.sequences - there)),
            *(f"lease {ticket} belongs to no operation" for ticket in sorted(frozenset(leases) - known)),
        )


def _sorted(keys: frozenset[OperationKey]) -> list[OperationKey]:
    return sorted(keys, key=lambda key: (key.request_id, key.epoch))


def _name(key: OperationKey) -> str:
    return f"{key.request_id}/{key.epoch}"
