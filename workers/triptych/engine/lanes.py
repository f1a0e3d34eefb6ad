"""Several lanes, each with sequences, blocks and ranks of its own, as one scheduler.

Attention is computed where the KV is, so a sequence stays in its lane from its arrival to its release. It goes to the
lane that then has the least to do: what its sequences had for tokens when they came, and what the new one would add
there, which is less where the KV of its beginning is found.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from triptych.core.generation import OperationKey
from triptych.engine.lane_plans import by_lane, merged
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.scheduler import Emitted, Scheduler, SchedulerOptions
from triptych.engine.sequence import Media, Sequence

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class LaneBlocks:
    """The blocks of all lanes; see `BlockPool`."""

    count: int
    free_count: int

    @property
    def held_count(self) -> int:
        """Blocks that somebody has to free."""
        return self.count - self.free_count


@dataclass(frozen=True, slots=True)
class LaneCaches:
    """What all lanes have looked up, and found; see `KvCache`."""

    query_tokens: int
    hit_tokens: int


@dataclass(frozen=True, slots=True)
class _Seat:
    """Where a sequence is, and the tokens that it counts for."""

    lane: int
    tokens: int


class Lanes:
    """See `Scheduler`, whose methods these are.

    A step has a part for each lane. The lanes take it together: one that has nothing to do gets an empty part.

    Args:
        lanes: Two or more, with equal options and pools. The ids of their blocks are distinct.
    """

    def __init__(self, lanes: tuple[Scheduler, ...]) -> None:
        self.lanes = lanes
        self._seats: dict[OperationKey, _Seat] = {}
        self._work = [0] * len(lanes)

    def __contains__(self, key: OperationKey) -> bool:
        """Whether `release(key)` is still due."""
        return key in self._seats

    @property
    def options(self) -> SchedulerOptions:
        """Limits of one step, for each lane."""
        return self.lanes[0].options

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.lanes[0].block_size

    @property
    def pool(self) -> LaneBlocks:
        """The blocks."""
        pools = [lane.pool for lane in self.lanes]
        return LaneBlocks(sum(pool.count for pool in pools), sum(pool.free_count for pool in pools))

    @property
    def kv(self) -> LaneCaches:
        """What was looked up."""
        caches = [lane.kv for lane in self.lanes]
        return LaneCaches(sum(kv.query_tokens for kv in caches), sum(kv.hit_tokens for kv in caches))

    @property
    def preemptions(self) -> int:
        """See `Scheduler`."""
        return sum(lane.preemptions for lane in self.lanes)

    @property
    def running(self) -> int:
        """See `Scheduler`."""
        return sum(lane.running for lane in self.lanes)

    @property
    def waiting(self) -> int:
        """See `Scheduler`."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def runnable(self) -> int:
        """See `Scheduler`."""
        return sum(lane.runnable for lane in self.lanes)

    @property
    def waiting_tokens(self) -> int:
        """See `Scheduler`."""
        return sum(lane.waiting_tokens for lane in self.lanes)

    def sequences(self) -> Iterator[Sequence]:
        """See `Scheduler`."""
        return chain.from_iterable(lane.sequences() for lane in self.lanes)

    def lane(self, key: OperationKey) -> int | None:
        """Where a sequence is, unless it has been released."""
        seat = self._seats.get(key)
        return None if seat is None else seat.lane

    def find(self, key: OperationKey) -> Sequence | None:
        """See `Scheduler`."""
        return self._at(key, lambda lane: lane.find(key))

    def add(self, sequence: Sequence) -> None:
        """See `Scheduler`.

        Raises:
            ResourceExhausted: it could not run even alone.
        """
        found = [lane.kv.found_tokens(sequence) for lane in self.lanes]
        place = self._in_turn(found)[0]
        self.lanes[place].add(sequence)
        self._seat(sequence, place, len(sequence.token_ids) - found[place])

    def require_room(self, tokens: int, request_id: str) -> None:
        """See `Scheduler`."""
        self.lanes[0].require_room(tokens, request_id)

    def require_whole(self, media: tuple[Media, ...], request_id: str) -> None:
        """See `Scheduler`."""
        self.lanes[0].require_whole(media, request_id)

    def reserve(self, sequence: Sequence) -> bool:
        """See `Scheduler`; the first lane that has the blocks."""
        for place in self._in_turn([0] * len(self.lanes)):
            if self.lanes[place].reserve(sequence):
                self._seat(sequence, place, len(sequence.token_ids))
                return True
        return False

    def start(self, key: OperationKey) -> None:
        """See `Scheduler`."""
        self._at(key, lambda lane: lane.start(key))

    def supply(self, key: OperationKey, media: tuple[Media, ...]) -> None:
        """See `Scheduler`."""
        self._at(key, lambda lane: lane.supply(key, media))

    def park(self, key: OperationKey) -> None:
        """See `Scheduler`."""
        self._at(key, lambda lane: lane.park(key))

    def stalled(self) -> tuple[Sequence, ...]:
        """See `Scheduler`."""
        return tuple(chain.from_iterable(lane.stalled() for lane in self.lanes))

    def release(self, key: OperationKey) -> bool:
        """See `Scheduler`."""
        seat = self._seats.pop(key, None)
        if seat is None:
            return False
        self._work[seat.lane] -= seat.tokens
        return self.lanes[seat.lane].release(key)

    def schedule(self) -> StepPlan:
        """The next step of all lanes; empty when none has anything to do."""
        return merged([lane.schedule() for lane in self.lanes])

    def prepare(self, plan: StepPlan) -> tuple[Sequence, ...]:
        """See `Scheduler`; a lane that has not all the blocks leaves its sequences out."""
        return tuple(chain.from_iterable(lane.prepare(part) for lane, part in self._parts(plan)))

    def commit(self, plan: StepPlan, result: StepResult) -> list[Emitted]:
        """See `Scheduler`."""
        results = by_lane(plan, result)
        commits = (lane.commit(part, one) for (lane, part), one in zip(self._parts(plan), results, strict=True))
        return list(chain.from_iterable(commits))

    def forget(self) -> None:
        """See `Scheduler`."""
        for lane in self.lanes:
            lane.forget()

    def check_integrity(self) -> None:
        """See `Scheduler`; and that every sequence is where it is looked for."""
        for place, lane in enumerate(self.lanes):
            lane.check_integrity()
            assert {s.key for s in lane.sequences()} == {k for k, seat in self._seats.items() if seat.lane == place}
            tokens = sum(seat.tokens for seat in self._seats.values() if seat.lane == place)
            assert tokens == self._work[place], "work is counted that is not there"

    def _in_turn(self, found: list[int]) -> list[int]:
        """Lanes, the one with the least work first; of equal ones the first."""
        return sorted(range(len(self.lanes)), key=lambda place: self._work[place] - found[place])

    def _seat(self, sequence: Sequence, place: int, tokens: int) -> None:
        self._seats[sequence.key] = _Seat(place, tokens)
        self._work[place] += tokens

    def _parts(self, plan: StepPlan) -> Iterator[tuple[Scheduler, StepPlan]]:
        return zip(self.lanes, plan.lanes, strict=True)

    def _at(self, key: OperationKey, do: Callable[[Scheduler], _Found]) -> _Found | None:
        seat = self._seats.get(key)
        return None if seat is None else do(self.lanes[seat.lane])
