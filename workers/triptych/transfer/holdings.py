"""Which entries of a cache are held by whom, and which go when room is needed. Pure."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from triptych.core.errors import ResourceExhausted


class Holder(NamedTuple):
    """Who needs an entry: one attempt of one generation."""

    request_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class _Holding:
    size: int
    holders: frozenset[Holder]


class Holdings:
    """Entries by key, least recently used first. Not thread-safe.

    An entry that somebody holds stays; the others stay until room is needed.

    Args:
        budget_bytes: Bytes of all entries together.
        max_entries: Entries at most, unless more are held.
    """

    def __init__(self, budget_bytes: int, max_entries: int) -> None:
        self.budget_bytes = budget_bytes
        self._max_entries = max_entries
        self._holdings: OrderedDict[str, _Holding] = OrderedDict()
        self.stored_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._holdings

    def __len__(self) -> int:
        return len(self._holdings)

    @property
    def held_sizes(self) -> tuple[int, ...]:
        """Bytes of each entry that somebody holds."""
        return tuple(holding.size for holding in self._holdings.values() if holding.holders)

    def fits(self, keys: Collection[str], size: int) -> bool:
        """Whether all of `keys` can be held, those that nobody holds yet with `size` bytes each."""
        new = sum(1 for key in keys if key not in self._holdings or not self._holdings[key].holders)
        return sum(self.held_sizes) + new * size <= self.budget_bytes

    def add(self, key: str, size: int, holder: Holder) -> tuple[str, ...]:
        """Adds a new entry, held by `holder`; the keys that had to go for it.

        Raises:
            ResourceExhausted: It does not fit beside what is held; nothing has changed.
        """
        evicted = self._room_for(size)
        for old in evicted:
            self.stored_bytes -= self._holdings.pop(old).size
        self._holdings[key] = _Holding(size, frozenset((holder,)))
        self.stored_bytes += size
        return evicted

    def hold(self, key: str, holder: Holder) -> None:
        """Marks an entry as used now and held by `holder`; idempotent."""
        holding = self._holdings[key]
        self._holdings[key] = _Holding(holding.size, holding.holders | {holder})
        self._holdings.move_to_end(key)

    def release(self, holder: Holder) -> int:
        """Gives back everything that `holder` holds; how many entries. Idempotent."""
        mine = [key for key, holding in self._holdings.items() if holder in holding.holders]
        for key in mine:
            holding = self._holdings[key]
            self._holdings[key] = _Holding(holding.size, holding.holders - {holder})
        return len(mine)

    def _room_for(self, size: int) -> tuple[str, ...]:
        excess_bytes = self.stored_bytes + size - self.budget_bytes
        excess_entries = len(self._holdings) + 1 - self._max_entries
        evicted: list[str] = []
        for key, holding in self._holdings.items():
            if excess_bytes <= 0 and excess_entries <= 0:
                break
            if not holding.holders:
                evicted.append(key)
                excess_bytes -= holding.size
                excess_entries -= 1
        if excess_bytes > 0:
            raise ResourceExhausted(
                f"an entry of {size} bytes does not fit: {sum(self.held_sizes)} of {self.budget_bytes} bytes are held"
            )
        return tuple(evicted)
