"""The readable log of one run: when, who -> whom, what."""

from triptych.simulator.agenda import Agenda


class Transcript:
    """Lines of a run; nothing is kept while it is off.

    Args:
        agenda: Knows the time.
        on: Whether to keep lines.
    """

    def __init__(self, agenda: Agenda, *, on: bool) -> None:
        self.on = on
        self.lines: list[str] = []
        self._agenda = agenda

    def note(self, who: str, whom: str, what: object) -> None:
        """Adds a line; `whom` is empty for what somebody does by itself."""
        if self.on:
            arrow = f"{who:>10} -> {whom:<10}" if whom else f"{who:>10} {'':13}"
            self.lines.append(f"{self._agenda.now:10.4f}  {arrow} {what}")
