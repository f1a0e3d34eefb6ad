"""The monotonic clock of one machine, which starts anywhere and runs a little too fast or too slow."""

from triptych.simulator.agenda import Action, Agenda, Lane


class NodeClock:
    """Reads and waits in the time of one machine.

    Args:
        agenda: True time.
        offset: What the clock shows at the beginning, seconds.
        rate: Its seconds per true second.
    """

    def __init__(self, agenda: Agenda, offset: float, rate: float) -> None:
        self.agenda = agenda
        self._offset = offset
        self._rate = rate

    @property
    def now(self) -> float:
        """What the clock shows."""
        return self._offset + self.agenda.now * self._rate

    def after(self, seconds: float, action: Action, lane: Lane) -> None:
        """Plans an action for when the clock will have gone on by `seconds`."""
        self.agenda.after(seconds / self._rate, action, lane)

    def at(self, reading: float, action: Action, lane: Lane) -> None:
        """Plans an action for when the clock will show `reading`."""
        self.after(max(0.0, reading - self.now), action, lane)
