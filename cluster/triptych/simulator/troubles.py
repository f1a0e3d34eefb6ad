"""When something was wrong: what a client waits for beyond that is the cluster's own doing."""

from triptych.simulator.agenda import Agenda


class Troubles:
    """The time of every misfortune, healing included.

    Args:
        agenda: True time.
        healing: Seconds after its end until a misfortune is noticed and made good.
    """

    def __init__(self, agenda: Agenda, healing: float) -> None:
        self._agenda = agenda
        self._healing = healing
        self._spans: list[tuple[float, float]] = []

    def begin(self, seconds: float) -> None:
        """Something goes wrong now, for so long."""
        now = self._agenda.now
        self._spans.append((now, now + seconds + self._healing))

    def calm(self, start: float, end: float) -> float:
        """Seconds between two moments of true time in which nothing was wrong."""
        calm, at = 0.0, start
        for first, last in sorted(self._spans):
            if last > at:
                calm += max(0.0, min(first, end) - at)
                at = last
            if at >= end:
                return calm
        return calm + end - at
