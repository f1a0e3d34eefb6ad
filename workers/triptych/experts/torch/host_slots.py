"""Which expert is in which slot of host memory: the least recently used goes, unless somebody needs it."""

from collections import OrderedDict

Key = tuple[int, int]
"""Layer and number in the packed file."""


class HostSlots:
    """Decisions alone.

    Args:
        slots: How many.
    """

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots - 1, -1, -1))
        self._where: OrderedDict[Key, int] = OrderedDict()
        self._pins: dict[int, int] = {}

    def find(self, key: Key) -> int | None:
        """The slot of an expert, which is the most recently used from now on."""
        slot = self._where.get(key)
        if slot is not None:
            self._where.move_to_end(key)
        return slot

    def take(self, key: Key) -> int | None:
        """A slot for an expert that has none; None when all are pinned."""
        if self._free:
            slot = self._free.pop()
        else:
            oldest = next((key for key, slot in self._where.items() if slot not in self._pins), None)
            if oldest is None:
                return None
            slot = self._where.pop(oldest)
        self._where[key] = slot
        return slot

    def forget(self, key: Key) -> None:
        """An expert that nobody needs is not in its slot after all."""
        self._free.append(self._where.pop(key))

    def pin(self, slot: int) -> None:
        """Nobody may take it, until it has been unpinned as often."""
        self._pins[slot] = self._pins.get(slot, 0) + 1

    def unpin(self, slot: int) -> bool:
        """See `pin`; whether nobody needs it any more."""
        self._pins[slot] -= 1
        if self._pins[slot]:
            return False
        del self._pins[slot]
        return True
