"""What a group's collectives have sent, counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Collective = Literal["all_reduce", "all_gather", "all_to_all"]


@dataclass(slots=True)
class Traffic:
    """Of one rank.

    Attributes:
        calls: By kind.
        sent_bytes: By kind, what this rank has put on the wire for others; what it keeps for itself is not counted.
    """

    calls: Counter[Collective] = field(default_factory=Counter)
    sent_bytes: Counter[Collective] = field(default_factory=Counter)

    def count(self, kind: Collective, sent_bytes: int) -> None:
        """Adds one call."""
        self.calls[kind] += 1
        self.sent_bytes[kind] += sent_bytes

    @property
    def total_bytes(self) -> int:
        """Of all kinds."""
        return self.sent_bytes.total()


SMALL_BYTES = 1 << 16
"""Up to this size a sum is made by everybody from everything: half the messages of a ring, one after another."""


def sent_by_all_reduce(size_bytes: int, ranks: int) -> int:
    """Bytes a rank sends to sum up a tensor of so many.

    A small one goes to everybody. Of a large one go all parts but one to be summed up, and all sums but one (a ring).
    """
    return size_bytes * (ranks - 1) if size_bytes <= SMALL_BYTES else 2 * size_bytes * (ranks - 1) // ranks
