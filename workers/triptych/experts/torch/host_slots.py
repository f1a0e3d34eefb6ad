"""Which expert is in which slot of host memory: the least recently used goes, unless somebody needs it.

A rounded expert takes one slot. An exact one takes a frame, which is as many neighbouring slots as it fills. So the
same memory holds either, in whatever shares they are asked for.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple


class Key(NamedTuple):
    """An expert, by its layer and number in the packed file, in one of its forms."""

    layer: int
    number: int
    rounded: bool = False

    @property
    def exact(self) -> "Key":
        """The same expert in its exact form."""
        return self._replace(rounded=False)


@dataclass(frozen=True, slots=True)
class HostPool:
    """What host memory is divided into.

    Attributes:
        frames: Room for an exact expert each.
        parts: Slots of a frame: rounded experts that it holds instead of an exact one; 1 where all are exact.
        slot_bytes: Of each, pages.
    """

    frames: int
    parts: int
    slot_bytes: int

    @property
    def slots(self) -> int:
        """Of all frames."""
        return self.frames * self.parts

    @property
    def nbytes(self) -> int:
        """Of all slots."""
        return self.slots * self.slot_bytes


class HostSlots:
    """Decisions alone.

    Args:
        frames: How many.
        parts: Slots of each; a frame begins at a multiple of that.
    """

    def __init__(self, frames: int, parts: int = 1) -> None:
        self._parts = parts
        self._where: OrderedDict[Key, int] = OrderedDict()
        self._keys: dict[int, Key] = {}
        self._inside: list[set[Key]] = [set() for _ in range(frames)]
        self._empty = dict.fromkeys(range(frames - 1, -1, -1))
        """Frames without an expert."""
        self._gaps: dict[int, None] = {}
        """Free slots of other frames."""
        self._pins: dict[int, int] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether `find` finds it."""
        return any(form in self._where for form in _forms(key))

    def find(self, key: Key) -> int | None:
        """The slot of an expert, which is the most recently used from now on; exact is better than rounded."""
        for form in _forms(key):
            slot = self._where.get(form)
            if slot is not None:
                self._where.move_to_end(form)
                return slot
        return None

    def slot(self, key: Key) -> int | None:
        """The slot of an expert in this form, which does not count as its use."""
        return self._where.get(key)

    def idle(self, key: Key) -> bool:
        """Whether an expert is there in this form, and nobody needs it."""
        slot = self._where.get(key)
        return slot is not None and slot not in self._pins

    def key(self, slot: int) -> Key:
        """Who is in a slot; in the first one of a frame, if it is exact."""
        return self._keys[slot]

    def take(self, key: Key) -> int | None:
        """A slot for an expert that has none in its form, or the first of a frame; None when too much is pinned."""
        if not (self._empty or (key.rounded and self._gaps)):
            victims = self._oldest(whole=not key.rounded)
            if not victims:
                return None
            for victim in victims:
                self.forget(victim)
        slot = self._gap() if key.rounded else self._empty.popitem()[0] * self._parts
        self._where[key] = slot
        self._keys[slot] = key
        self._inside[slot // self._parts].add(key)
        return slot

    def forget(self, key: Key) -> None:
        """An expert that nobody needs is not in its slot after all."""
        slot = self._where.pop(key)
        del self._keys[slot]
        frame = slot // self._parts
        self._inside[frame].remove(key)
        if self._inside[frame]:
            self._gaps[slot] = None
            return
        for part in range(frame * self._parts, (frame + 1) * self._parts):
            self._gaps.pop(part, None)
        self._empty[frame] = None

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

    def _gap(self) -> int:
        """A free slot: of a frame that has rounded experts already, if there is one."""
        if not self._gaps:
            frame, _ = self._empty.popitem()
            self._gaps = dict.fromkeys(range((frame + 1) * self._parts - 1, frame * self._parts - 1, -1))
        return self._gaps.popitem()[0]

    def _oldest(self, *, whole: bool) -> list[Key]:
        """Whom nobody needs and nobody has used for longest; all who are in a frame, where all of one is needed."""
        seen: dict[int, list[Key]] = {}
        for key, slot in self._where.items():
            if slot in self._pins:
                continue
            if not whole:
                return [key]
            inside = seen.setdefault(slot // self._parts, [])
            inside.append(key)
            if len(inside) == len(self._inside[slot // self._parts]):
                return inside
        return []


def _forms(key: Key) -> tuple[Key, ...]:
    """Those that will do for it, the better one first."""
    return (key.exact, key) if key.rounded else (key,)
