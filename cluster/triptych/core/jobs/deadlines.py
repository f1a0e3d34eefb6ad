"""When which operations end, soonest first."""

import heapq

from triptych.core.generation import OperationKey

_SLACK = 64


class Deadlines:
    """Deadlines by operation. Those of operations that are over go as they come up, or once they prevail."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, OperationKey]] = []
        self._due: dict[OperationKey, float] = {}
        self._count = 0

    def add(self, key: OperationKey, at: float) -> None:
        """An operation ends at `at`, in monotonic seconds."""
        self._due[key] = at
        self._count += 1  # two of the same moment: first come, first served
        heapq.heappush(self._heap, (at, self._count, key))

    def drop(self, key: OperationKey) -> None:
        """It is over, or has no deadline anyway."""
        if self._due.pop(key, None) is not None and len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    @property
    def next(self) -> float | None:
        """The soonest."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[OperationKey]:
        """Takes out those that have passed."""
        passed = []
        while (soonest := self.next) is not None and soonest <= now:
            key = heapq.heappop(self._heap)[2]
            del self._due[key]
            passed.append(key)
        return passed
