"""Who has fallen silent. Pure."""

BEATS = 5
"""Heartbeats within the patience."""


class Watch:
    """When each rank was last heard of.

    Args:
        patience: Seconds of silence after which a rank counts as lost.
    """

    def __init__(self, patience: float) -> None:
        self.interval = patience / BEATS
        """Seconds between two looks."""
        self._patience = patience
        self._heard: dict[int, float] = {}
        self._looked: float | None = None

    def hear(self, rank: int, now: float) -> None:
        """Notes that a rank is alive."""
        self._heard[rank] = now

    def silent(self, now: float) -> int | None:
        """The rank that has been silent for too long, if one has.

        A watch that has itself stood still cannot tell: it looks again an interval later.
        """
        late = self._looked is not None and now - self._looked > 3 * self.interval
        self._looked = now
        if late or not self._heard:
            return None
        rank, heard = min(list(self._heard.items()), key=lambda item: item[1])
        return rank if now - heard > self._patience else None
