"""Reads in the background: what a step waits for before what it may need, and that before what is merely warm."""

import heapq
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from triptych.core.errors import Internal, TriptychError, describe
from triptych.experts.cache import Cause

_URGENCY: dict[Cause, int] = {"demand": 0, "prefetch": 1, "warm": 2}


@dataclass(frozen=True, slots=True)
class Read:
    """An expert to be read into a slot of memory, by its layer and number in the packed file, exactly or rounded."""

    slot: int
    layer: int
    number: int
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """A slot of which the read is over; `error` says that it holds nothing."""

    slot: int
    error: TriptychError | None


class ReadQueue:
    """Reads that wait, threads that do them, and those that are done.

    One slot has one read at a time. One of several threads is left for what a step waits for. All methods may be
    called by any thread.

    Args:
        read: Does one; TriptychError when it cannot.
        readers: Threads.
    """

    def __init__(self, read: Callable[[Read], None], readers: int) -> None:
        self._read = read
        self._changed = threading.Condition()
        self._heap: list[tuple[int, int, Read]] = []
        self._queued: dict[int, tuple[int, int, Read]] = {}
        self._busy: set[int] = set()
        self._ahead: set[int] = set()
        """Of those that are busy: nobody waited for them when their reads began."""
        self._most_ahead = max(readers - 1, 1)
        self._arrived: list[Arrived] = []
        self._count = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"experts-{n}", daemon=True) for n in range(readers)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, read: Read, cause: Cause) -> None:
        """Queues a read."""
        with self._changed:
            self._push(read, cause)

    def promote(self, slot: int) -> None:
        """A step waits for this now, if it is still queued."""
        with self._changed:
            if slot in self._queued:
                self._push(self._queued[slot][2], "demand")

    def drop(self, slot: int) -> bool:
        """Forgets a read that has not begun; whether that is so."""
        with self._changed:
            return self._queued.pop(slot, None) is not None

    def wait(self, slots: Iterable[int]) -> None:
        """Returns when none of these is queued or being read."""
        wanted = set(slots)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (wanted & self._busy or wanted & self._queued.keys()))

    def arrived(self) -> list[Arrived]:
        """Those that are over since the last call."""
        with self._changed:
            done, self._arrived = self._arrived, []
            return done

    def close(self) -> None:
        """Forgets what is queued, and returns when the threads have ended."""
        with self._changed:
            self._closed = True
            self._queued.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _push(self, read: Read, cause: Cause) -> None:
        self._count += 1
        entry = (_URGENCY[cause], self._count, read)
        self._queued[read.slot] = entry
        heapq.heappush(self._heap, entry)
        self._changed.notify_all()

    def _work(self) -> None:
        while (read := self._take()) is not None:
            error: TriptychError | None = None
            try:
                self._read(read)
            except TriptychError as failure:
                error = failure
            except Exception as failure:  # a defect must not end the thread: a step would wait for ever
                error = Internal(describe(failure))
            with self._changed:
                self._busy.discard(read.slot)
                self._ahead.discard(read.slot)
                self._arrived.append(Arrived(read.slot, error))
                self._changed.notify_all()

    def _take(self) -> Read | None:
        with self._changed:
            while True:
                if (read := self._next()) is not None:
                    return read
                if self._closed:
                    return None
                self._changed.wait()

    def _next(self) -> Read | None:
        """The most urgent that may begin."""
        while self._heap:
            urgency, _, read = entry = self._heap[0]
            there = self._queued.get(read.slot) is entry
            if there and urgency and len(self._ahead) >= self._most_ahead:
                return None
            heapq.heappop(self._heap)
            if there:
                del self._queued[read.slot]
                self._busy.add(read.slot)
                if urgency:
                    self._ahead.add(read.slot)
                return read
        return None
