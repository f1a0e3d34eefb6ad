"""A disk and a processor, as far as replay needs them: readers that share the disk, demand before speculation."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from triptych.experts.cache import ExpertCache, Load, Loading


@dataclass(frozen=True, slots=True)
class Device:
    """How fast a machine is.

    Attributes:
        bandwidth: Bytes a second that all readers together get.
        step: Seconds of a decode step with every expert in memory.
        mixture: Share of it that is computing experts.
    """

    bandwidth: float
    step: float
    mixture: float = 0.5


@dataclass(slots=True)
class Disk:
    """Reads into the slots of a cache, in virtual time.

    Reads under way have equal shares of the disk. One reader is left for what a step waits for
    (`residency_readers.h`), unless it is the only one.
    """

    cache: ExpertCache
    seconds: float
    """Of a read that has the disk to itself."""
    readers: int
    """Reads at a time."""
    reads: int = 0
    _now: float = 0.0
    _left: dict[int, float] = field(default_factory=dict)
    """By slot that is read into: seconds of the disk that are left."""
    _ahead: set[int] = field(default_factory=set)
    """Those of them that nobody waited for when their read began."""
    _demand: deque[int] = field(default_factory=deque)
    _speculation: deque[int] = field(default_factory=deque)

    def until(self, now: float) -> None:
        """Time passes."""
        while self._left and self._now + min(self._left.values()) * len(self._left) <= now:
            self._finish()
        if self._left:
            self._spend((now - self._now) / len(self._left))
        self._now = now

    def ask(self, now: float, loads: Collection[Load]) -> None:
        """Queues reads."""
        self.until(now)
        for load in loads:
            (self._speculation if load.cause == "prefetch" else self._demand).append(load.slot)
        self._begin()

    def reach(self, layer: int, experts: Collection[int]) -> int:
        """The layer is there: speculation for it is of use now, or none any more. Returns how many were dropped."""
        rest: deque[int] = deque()
        dropped = 0
        for slot in self._speculation:
            match self.cache.slots[slot]:
                case Loading(of, expert) if of == layer and expert in experts:
                    self._demand.append(slot)
                case Loading(of) if of == layer:
                    self.cache.dropped(slot)
                    dropped += 1
                case _:
                    rest.append(slot)
        self._speculation = rest
        return dropped

    def wait(self, slots: Collection[int]) -> float:
        """Finishes what is asked for; returns when."""
        done = 0.0
        while any(isinstance(self.cache.slots[slot], Loading) for slot in slots):
            self._finish()
            done = self._now
        return done

    def _begin(self) -> None:
        most_ahead = max(self.readers - 1, 1)
        while len(self._left) < self.readers:
            if self._demand:
                slot = self._demand.popleft()
            elif self._speculation and len(self._ahead) < most_ahead:
                slot = self._speculation.popleft()
                self._ahead.add(slot)
            else:
                return
            self._left[slot] = self.seconds

    def _finish(self) -> None:
        """Until the next read is over."""
        assert self._left, "nobody reads what is waited for"
        least = min(self._left.values())
        self._now += least * len(self._left)
        self._spend(least)
        for slot in [slot for slot, left in self._left.items() if left <= 0]:
            del self._left[slot]
            self._ahead.discard(slot)
            self.cache.loaded(slot)
            self.reads += 1
        self._begin()

    def _spend(self, seconds: float) -> None:
        for slot in self._left:
            self._left[slot] -= seconds
