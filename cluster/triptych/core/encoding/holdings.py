"""Which entries of a cache are held by whom, and which go when room is needed."""

from collections import OrderedDict
from dataclasses import dataclass

from triptych.core.errors import ResourceExhausted
from triptych.core.generation import OperationKey


@dataclass(frozen=True, slots=True)
class Holding:
    """What one holder has of a cache."""

    holder: OperationKey
    keys: frozenset[str]
    bytes: int


@dataclass(frozen=True, slots=True)
class HoldingsAudit:
    """A count of everything, made from the entries themselves.

    Attributes:
        holdings: By holder; one that holds nothing is not among them.
        held_bytes: Bytes of the entries that somebody holds, each counted once.
        stored_bytes: Bytes of all entries.
        problems: What is wrong with the books, in plain words; empty when they are in order.
    """

    holdings: tuple[Holding, ...]
    held_bytes: int
    stored_bytes: int
    problems: tuple[str, ...]


class Holdings:
    """Entries by key. Not thread-safe.

    An entry that somebody holds stays. The others stay until room is needed: then the one goes first that nobody has
    held for the longest time.

    Args:
        budget_bytes: Bytes of all entries together.
        max_entries: Entries at most, unless more are held.
    """

    def __init__(self, budget_bytes: int, max_entries: int) -> None:
        self.budget_bytes = budget_bytes
        self.stored_bytes = 0
        self.held_bytes = 0
        self._max_entries = max_entries
        self._sizes: dict[str, int] = {}
        self._doubted: set[str] = set()
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._holders: dict[str, set[OperationKey]] = {}
        self._keys: dict[OperationKey, dict[str, None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def held_count(self) -> int:
        """Entries that somebody holds."""
        return len(self._holders)

    def holds(self, key: str) -> bool:
        """Whether anybody holds an entry."""
        return key in self._holders

    def size(self, key: str) -> int | None:
        """Bytes of an entry; None where there is none."""
        return self._sizes.get(key)

    def intact(self, key: str) -> bool:
        """Whether there is an entry that nobody doubts."""
        return key in self._sizes and key not in self._doubted

    def doubt(self, key: str) -> None:
        """Somebody found the content of an entry damaged; nothing happens where there is none."""
        if key in self._sizes:
            self._doubted.add(key)

    def renew(self, key: str) -> None:
        """The content of an entry was made again."""
        self._doubted.discard(key)

    def add(self, key: str, size: int, holder: OperationKey) -> tuple[str, ...]:
        """Adds a new entry, held by `holder`; the keys that had to go for it.

        Raises:
            ResourceExhausted: It does not fit beside what is held; nothing has changed.
        """
        if self.held_bytes + size > self.budget_bytes:
            raise ResourceExhausted(
                f"an entry of {size} bytes does not fit: {self.held_bytes} of {self.budget_bytes} bytes are held"
            )
        evicted = self._make_room(size)
        self._sizes[key] = size
        self._idle[key] = None
        self.stored_bytes += size
        self.hold(key, holder)
        return evicted

    def hold(self, key: str, holder: OperationKey) -> None:
        """Makes `holder` hold an entry; idempotent."""
        if key in self._idle:
            del self._idle[key]
            self._holders[key] = set()
            self.held_bytes += self._sizes[key]
        self._holders[key].add(holder)
        self._keys.setdefault(holder, {})[key] = None

    def release(self, holder: OperationKey) -> int:
        """Gives back everything that `holder` holds; how many entries. Idempotent."""
        mine = self._keys.pop(holder, {})
        for key in mine:
            self._holders[key].remove(holder)
            if not self._holders[key]:
                del self._holders[key]
                self._idle[key] = None
                self.held_bytes -= self._sizes[key]
        return len(mine)

    def discard(self, key: str) -> None:
        """Drops an entry that nobody holds."""
        del self._idle[key]
        self._doubted.discard(key)
        self.stored_bytes -= self._sizes.pop(key)

    def audit(self) -> HoldingsAudit:
        """Who holds what."""
        sizes = self._sizes
        holdings = tuple(
            Holding(holder, frozenset(keys), sum(sizes[key] for key in keys)) for holder, keys in self._keys.items()
        )
        held = frozenset[str]().union(*(holding.keys for holding in holdings))
        held_bytes, stored_bytes = sum(sizes[key] for key in held), sum(sizes.values())
        expectations = (
            ("held entries", held, self._holders.keys()),
            ("idle entries", sizes.keys() - held, self._idle.keys()),
            ("held bytes", held_bytes, self.held_bytes),
            ("stored bytes", stored_bytes, self.stored_bytes),
            ("doubted entries that are gone", 0, len(self._doubted - sizes.keys())),
            ("bytes over the budget", 0, max(0, stored_bytes - self.budget_bytes)),
        )
        problems = tuple(
            f"{what}: {real} counted, {booked} booked" for what, real, booked in expectations if real != booked
        )
        return HoldingsAudit(holdings, held_bytes, stored_bytes, problems)

    def _make_room(self, size: int) -> tuple[str, ...]:
        evicted: list[str] = []
        while self._idle and (
            self.stored_bytes + size > self.budget_bytes or len(self._sizes) + 1 > self._max_entries
        ):
            evicted.append(next(iter(self._idle)))
            self.discard(evicted[-1])
        return tuple(evicted)
