"""The desk's line as it is seen from outside: who waits, since when, and who went past them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from triptych.core.desk import Entry
from triptych.core.request.record import ATTEMPT_BITS
from triptych.core.request.states import Ended, Queued

if TYPE_CHECKING:
    from triptych.simulator.router import Router

Want = tuple[int, object, bool, frozenset[str]]


class LineWatch:
    """Counts how often somebody who waits for workers is overtaken by one who came later and wants the same.

    Args:
        short_below: Prompts under so many tokens want one worker.
    """

    def __init__(self, short_below: int) -> None:
        self._short_below = short_below
        self._seen: dict[Entry, Queued] = {}
        self._overtaken: Counter[tuple[Entry, Queued]] = Counter()

    def look(self, router: Router) -> Iterator[tuple[str, int]]:
        """Names of those who wait, and how many overtook them since they began to."""
        waiting = {entry: state for entry in router.calls if isinstance(state := entry.record.state, Queued)}
        placed = [
            entry
            for entry in self._seen
            if entry in router.calls and not isinstance(entry.record.state, Queued | Ended)
        ]
        for entry, state in waiting.items():
            if self._seen.get(entry) is state and state.not_before <= state.since:
                later = [other for other in placed if self._place(other) > self._place(entry)]
                want = self._want(entry)
                self._overtaken[entry, state] += sum(self._want(other) == want for other in later)
                yield entry.request_id, self._overtaken[entry, state]
        self._seen = waiting

    def _place(self, entry: Entry) -> tuple[float, int]:
        """Who lost their workers at the same moment wait in the order in which they were accepted."""
        return self._seen[entry].since, entry.record.key.epoch >> ATTEMPT_BITS

    def _want(self, entry: Entry) -> Want:
        demand = entry.demand
        short = demand.prompt_tokens < self._short_below
        return len(demand.patches), demand.placement, short, entry.record.past.avoid
