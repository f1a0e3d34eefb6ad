"""Steps that a commit made slow."""

from collections import deque

AROUND = 16
"""Steps without a commit that one with a commit is compared to."""


class StepWatch:
    """Compares steps that a commit preceded with those around them.

    Attributes:
        slow: How many took more than twice as long as the longest of the last steps: one whole step too long.
    """

    def __init__(self) -> None:
        self.slow = 0
        self._usual: deque[float] = deque(maxlen=AROUND)

    def took(self, seconds: float) -> None:
        """A step without a commit before it."""
        self._usual.append(seconds)

    def took_after_commit(self, seconds: float) -> None:
        """A step with one, the time of the commit included; the first steps of all have nothing to be compared to."""
        if self._usual and seconds > 2 * max(self._usual):
            self.slow += 1
