"""A disk and a processor, as far as replay needs them: readers that share the disk, demand before speculation."""

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from triptych.experts.cache import ExpertCache, Load, Loading
from triptych.experts.store.packed import PIECE


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

    def reads(self, blob: int) -> tuple[float, ...]:
        """Seconds of each read that brings an expert of `blob` bytes, if it has the disk to itself.

        Readers bring large experts in pieces. That gate and up are cut apart from down makes no difference here.
        """
        return tuple(min(PIECE, blob - at) / self.bandwidth for at in range(0, blob, PIECE))


@dataclass(frozen=True, slots=True)
class _Piece:
    """To be read: of the expert that a slot is for, so many seconds of the disk."""

    slot: int
    seconds: float


@dataclass(slots=True)
class _Read:
    """Under way: seconds that are left, and whether nobody waited for it when it began."""

    slot: int
    left: float
    ahead: bool


@dataclass(slots=True)
class Disk:
    """Reads into the slots of a cache, in virtual time.

    Reads under way have equal shares of the disk. One reader is left for what a step waits for
    (`residency_readers.h`), unless it is the only one.
    """

    cache: ExpertCache
    pieces: tuple[float, ...]
    """Seconds of each read of an expert, if it has the disk to itself: `Device.reads`."""
    readers: int
    """Reads at a time."""
    reads: int = 0
    """Experts that have been read."""
    now: float = 0.0
    _open: Counter[int] = field(default_factory=Counter)
    """By slot: pieces that are not there yet."""
    _under_way: list[_Read] = field(default_factory=list)
    _demand: deque[_Piece] = field(default_factory=deque)
    _speculation: deque[_Piece] = field(default_factory=deque)

    def until(self, now: float) -> None:
        """Time passes."""
        while self._under_way and self.now + self._least * len(self._under_way) <= now:
            self._finish()
        if self._under_way:
            self._spend((now - self.now) / len(self._under_way))
        self.now = now

    def ask(self, now: float, loads: Collection[Load]) -> None:
        """Queues reads."""
        self.until(now)
        for load in loads:
            self._open[load.slot] = len(self.pieces)
            queue = self._speculation if load.cause == "prefetch" else self._demand
            queue.extend(_Piece(load.slot, seconds) for seconds in self.pieces)
        self._begin()

    def reach(self, layer: int, experts: Collection[int]) -> int:
        """The layer is there: speculation for it is of use now, or none any more. Returns how many were dropped.

        Who is there in part is read to the end, behind all others.
        """

        def of_layer(piece: _Piece) -> bool:
            slot = self.cache.slots[piece.slot]
            return isinstance(slot, Loading) and slot.layer == layer

        def wanted(piece: _Piece) -> bool:
            slot = self.cache.slots[piece.slot]
            return isinstance(slot, Loading) and slot.expert in experts

        found, self._speculation = _parted(self._speculation, of_layer)
        asked, unasked = _parted(found, wanted)
        self._demand.extend(asked)
        return self._drop(unasked)

    def make_room(self) -> int:
        """No slot can be had: gives up what is queued in advance, or what has come, or waits for a read.

        Returns how many were dropped. Time may have passed: `now`.
        """
        queued, self._speculation = self._speculation, deque()
        dropped = self._drop(queued)
        if not dropped and not self.cache.release_one():
            self._finish()
        return dropped

    def wait(self, slots: Collection[int]) -> float:
        """Finishes what is asked for; returns when."""
        done = 0.0
        while any(isinstance(self.cache.slots[slot], Loading) for slot in slots):
            self._finish()
            done = self.now
        return done

    def _drop(self, unasked: Collection[_Piece]) -> int:
        queued = Counter(piece.slot for piece in unasked)
        untouched = {slot for slot, count in queued.items() if count == self._open[slot]}
        for slot in untouched:
            self.cache.dropped(slot)
        self._speculation.extend(piece for piece in unasked if piece.slot not in untouched)
        return len(untouched)

    def _begin(self) -> None:
        most_ahead = max(self.readers - 1, 1)
        while len(self._under_way) < self.readers:
            ahead = not self._demand
            queue = self._speculation if ahead else self._demand
            if not queue or (ahead and sum(read.ahead for read in self._under_way) >= most_ahead):
                return
            piece = queue.popleft()
            self._under_way.append(_Read(piece.slot, piece.seconds, ahead))

    @property
    def _least(self) -> float:
        return min(read.left for read in self._under_way)

    def _finish(self) -> None:
        """Until the next read is over."""
        assert self._under_way, "nobody reads what is waited for"
        least = self._least
        self.now += least * len(self._under_way)
        self._spend(least)
        over = [read for read in self._under_way if read.left <= 0]
        self._under_way = [read for read in self._under_way if read.left > 0]
        for read in over:
            self._open[read.slot] -= 1
            if not self._open[read.slot]:
                self.cache.loaded(read.slot)
                self.reads += 1
        self._begin()

    def _spend(self, seconds: float) -> None:
        for read in self._under_way:
            read.left -= seconds


def _parted(pieces: Collection[_Piece], chosen: Callable[[_Piece], bool]) -> tuple[deque[_Piece], deque[_Piece]]:
    """Those that are, and the rest."""
    found, rest = deque[_Piece](), deque[_Piece]()
    for piece in pieces:
        (found if chosen(piece) else rest).append(piece)
    return found, rest
