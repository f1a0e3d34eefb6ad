"""Virtual time: what happens when, and in which lane of which process."""

import enum
import heapq
from collections.abc import Callable

from triptych.core.errors import Internal

Action = Callable[[], None]

MAX_MOMENT = 20_000
"""Things that may happen at one moment."""


class Motion(enum.Enum):
    """What a lane does with what happens to it."""

    MOVING = enum.auto()
    STOPPED = enum.auto()
    """Everything waits until it moves again."""
    GONE = enum.auto()
    """Nothing happens any more."""


class Lane:
    """A thread of a process, as far as time is concerned."""

    __slots__ = ("backlog", "motion", "rate")

    def __init__(self) -> None:
        self.motion = Motion.MOVING
        self.rate = 1.0
        self.backlog: list[Action] = []


WORLD = Lane()
"""Where the things live that no fault stops: the network, the clients' people."""


class Agenda:
    """The heap of everything that is still to happen. Things of one moment happen in the order they were planned in.

    Attributes:
        now: Seconds since the run began.
        events: Items taken from the heap.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Lane, Action]] = []
        self._planned = 0
        self._moment = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time: float, action: Action, lane: Lane = WORLD) -> None:
        """Plans an action for a moment, not before now."""
        self._planned += 1
        heapq.heappush(self._heap, (max(time, self.now), self._planned, lane, action))

    def after(self, seconds: float, action: Action, lane: Lane = WORLD) -> None:
        """Plans an action for later."""
        self.at(self.now + seconds, action, lane)

    def advance(self) -> bool:
        """Does the next thing; False when there is none."""
        if not self._heap:
            return False
        time, _, lane, action = heapq.heappop(self._heap)
        self.events += 1
        self._moment = self._moment + 1 if time == self.now else 0
        if self._moment > MAX_MOMENT:
            raise Internal(f"time stands still at {time:.4f}: {MAX_MOMENT} things happened without an end")
        self.now = time
        match lane.motion:
            case Motion.MOVING:
                action()
            case Motion.STOPPED:
                lane.backlog.append(action)
            case Motion.GONE:
                pass
        return True

    def stop(self, lane: Lane) -> None:
        """Lets a lane stand still until `resume`."""
        if lane.motion is Motion.MOVING:
            lane.motion = Motion.STOPPED

    def resume(self, lane: Lane) -> None:
        """Lets a lane go on, with everything that it has missed, in order."""
        if lane.motion is Motion.STOPPED:
            lane.motion = Motion.MOVING
            missed, lane.backlog = lane.backlog, []
            for action in missed:
                self.at(self.now, action, lane)

    def end(self, lane: Lane) -> None:
        """Ends a lane for good."""
        lane.motion = Motion.GONE
        lane.backlog.clear()
