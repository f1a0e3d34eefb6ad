"""Steps as they end, gathered into windows for the switch of reading in advance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from triptych.experts.residency import Counts
from triptych.experts.switch import Resting, State, Window, after

STEPS = 8
"""Of a window. Their median does not notice the prompt among them, nor the pause between two requests."""
WRITTEN_DOWN = 4096
"""Turns: of hundreds of trials, which take some hundred thousand steps at least."""


@dataclass(slots=True)
class SpeculationSwitch:
    """Says whether the next steps may read in advance.

    Attributes:
        state: Of the comparison.
        turns: As `Counts.turns`; the first `WRITTEN_DOWN` of them.
    """

    state: State = field(default_factory=Resting)
    turns: tuple[int, ...] = ()
    _steps: int = 0
    _ends: list[float] = field(default_factory=list)
    _before: Counts = field(default_factory=Counts)

    @property
    def on(self) -> bool:
        """Whether steps may read in advance now, be it for a trial."""
        return self.state.speculating

    @property
    def verdict(self) -> Resting:
        """The last one."""
        return self.state if isinstance(self.state, Resting) else self.state.last

    def step(self, now: float, counts: Callable[[], Counts]) -> bool:
        """A step is over.

        Args:
            now: Seconds, of any clock.
            counts: Gives those since the beginning; asked at both ends of a window.

        Returns:
            Whether a window ended with it, so that what is asked of this switch may have another answer.
        """
        self._steps += 1
        self._ends.append(now)
        if len(self._ends) == 1:  # the first after a change still finds what was read before it
            self._before = counts()
        if len(self._ends) <= STEPS:
            return False
        seconds = median(later - earlier for earlier, later in zip(self._ends, self._ends[1:], strict=False))
        ended, before = counts(), self._before
        demanded, prefetched = ended.demanded - before.demanded, ended.prefetched - before.prefetched
        was_on = self.on
        self.state = after(self.state, Window(seconds, demanded / STEPS, prefetched))
        if self.on != was_on and len(self.turns) < WRITTEN_DOWN:
            self.turns = (*self.turns, self._steps)
        self._ends.clear()
        return True
