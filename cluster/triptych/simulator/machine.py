"""A process on a machine of its own: its clock, its threads, its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from triptych.simulator.agenda import Action, Lane, Motion
from triptych.simulator.clock import NodeClock

if TYPE_CHECKING:
    from triptych.simulator.world import World


class Closable(Protocol):
    """Something that the system closes when a process ends."""

    def close(self) -> None:
        """Closes it; idempotent."""


class Machine:
    """A process.

    Args:
        name: Of the machine; survives the process.
        world: What it is part of.
        clock: The machine's.

    Attributes:
        io: The thread of its streams.
        compute: The thread that computes.
        movers: The threads of its transfers.
    """

    def __init__(self, name: str, world: World, clock: NodeClock) -> None:
        self.name = name
        self.world = world
        self.clock = clock
        self.io, self.compute, self.movers = Lane(), Lane(), Lane()
        self.open: dict[Closable, None] = {}
        self._watchers: list[tuple[Lane, Action]] = []
        self._resumed = 0.0

    @property
    def now(self) -> float:
        """Monotonic seconds of the machine."""
        return self.clock.now

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.io.motion is not Motion.GONE

    @property
    def moving(self) -> bool:
        """Whether everything in it moves."""
        return self.io.motion is Motion.MOVING and self.compute.motion is Motion.MOVING

    def after(self, seconds: float, action: Action, lane: Lane | None = None) -> None:
        """Plans an action in local time, of the transfers unless another lane is given."""
        self.clock.after(seconds, action, lane or self.movers)

    def every(self, seconds: float, action: Action, lane: Lane) -> None:
        """Plans an action again and again."""

        def again() -> None:
            action()
            self.clock.after(seconds, again, lane)

        self.clock.after(seconds, again, lane)

    def note(self, whom: str, what: object) -> None:
        """A line of the transcript."""
        self.world.transcript.note(self.name, whom, what)

    def when_dead(self, lane: Lane, action: Action) -> None:
        """Plans an action for a little after the end of the process: its peers' connections are reset."""
        self._watchers.append((lane, action))

    def stop(self) -> None:
        """SIGSTOP."""
        for lane in (self.io, self.compute, self.movers):
            self.world.agenda.stop(lane)

    def resumed_before(self, seconds: float) -> bool:
        """Whether the process was not stopped within the last so many seconds."""
        stopped = self.io.motion is not Motion.MOVING
        return not stopped and self.world.agenda.now >= self._resumed + seconds * 1.5

    def resume(self) -> None:
        """SIGCONT."""
        self._resumed = self.world.agenda.now
        for lane in (self.io, self.compute, self.movers):
            self.world.agenda.resume(lane)

    def die(self) -> None:
        """SIGKILL; the system closes its connections."""
        if not self.alive:
            return
        for lane in (self.io, self.compute, self.movers):
            self.world.agenda.end(lane)
        for connection in list(self.open):
            connection.close()
        watchers, self._watchers = self._watchers, []
        for lane, action in watchers:
            self.world.agenda.after(2 * self.world.spec.network.latency, action, lane)


Listener = Callable[[], None]
