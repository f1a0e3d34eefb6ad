"""When something was wrong: what a client waits for beyond that is the cluster's own doing."""

import math
from collections.abc import Collection, Iterable

from triptych.core.fleet.stage import Stage
from triptych.simulator.agenda import Agenda

Span = tuple[float, float]


class Troubles:
    """The time of every misfortune, healing included.

    Args:
        agenda: True time.
        healing: Seconds after its end until a misfortune is noticed and made good, by a router and a controller that
            are there.
    """

    def __init__(self, agenda: Agenda, healing: float) -> None:
        self._agenda = agenda
        self._healing = healing
        self._wrong: list[tuple[float, float, float]] = []  # begins, ends, and takes so long to be made good
        self._away: list[Span] = []  # router or controller
        self._vacant: list[Span] = []

    def begin(self, seconds: float, noticing: float = 0.0) -> None:
        """Something goes wrong now, for so long; to notice it takes longer than to notice a silence."""
        now = self._agenda.now
        self._wrong.append((now, now + seconds, noticing + self._healing))

    def nobody_heals(self, seconds: float) -> None:
        """The router or the controller does nothing for so long: what is under way is made good that much later."""
        now = self._agenda.now
        self._away.append((now, now + seconds))

    def ordered(self, roles: Collection[Stage]) -> None:
        """Workers of these roles are to be, by somebody's order: without prefill workers there are no pairs."""
        now, vacant = self._agenda.now, self._vacant and self._vacant[-1][1] == math.inf
        if vacant and Stage.PREFILL in roles:
            self._vacant[-1] = (self._vacant[-1][0], now)
        elif not vacant and Stage.PREFILL not in roles:
            self._vacant.append((now, math.inf))

    @property
    def vacant_for(self) -> float:
        """Seconds that by somebody's order there has been no prefill worker."""
        since, until = self._vacant[-1] if self._vacant else (0.0, 0.0)
        return self._agenda.now - since if until == math.inf else 0.0

    def calm(self, start: float, end: float, *, for_pairs: bool) -> float:
        """Seconds between two moments of true time in which nothing was wrong.

        Args:
            start: The one.
            end: The other.
            for_pairs: Whether it is of somebody who insists on a prefill and a decode worker.
        """
        spans = [(begun, self._made_good(over, takes)) for begun, over, takes in self._wrong]
        if for_pairs:
            spans += [(begun, self._made_good(over, self._healing)) for begun, over in self._vacant]
        return end - start - _covered(spans, start, end)

    def _made_good(self, over: float, takes: float) -> float:
        """When, of something that is over at that time and takes so long without interruption."""
        for gone, back in self._away:
            if gone < over + takes and over < back:
                takes -= max(0.0, gone - over)
                over = back
        return over + takes


def _covered(spans: Iterable[Span], start: float, end: float) -> float:
    """Seconds between two moments that at least one of the spans covers."""
    covered, at = 0.0, start
    for first, last in sorted(spans):
        first, last = max(first, at), min(last, end)
        if last > first:
            covered += last - first
            at = last
    return covered
