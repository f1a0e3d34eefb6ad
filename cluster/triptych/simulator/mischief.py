"""What goes wrong with bytes on their way between workers."""

import enum
from collections import Counter
from collections.abc import Callable
from random import Random

from triptych.simulator.scenario import FaultSpec


class Damage(enum.StrEnum):
    """What a payload meets."""

    NONE = "none"
    CORRUPT = "corrupt transfer"
    TRUNCATED = "truncated transfer"

    @property
    def suffix(self) -> str:
        """For the transcript."""
        return "" if self is Damage.NONE else f"  !! {self}"


class Mischief:
    """Draws the fate of payloads.

    Args:
        faults: How often.
        random: Where from.
        active: Whether faults still happen.
    """

    def __init__(self, faults: FaultSpec, random: Random, active: Callable[[], bool]) -> None:
        self.counts: Counter[str] = Counter()
        self._faults = faults
        self._random = random
        self._active = active

    def of_transfer(self) -> Damage:
        """The fate of a payload."""
        corrupt, truncated = self._faults.corrupt_transfer, self._faults.truncated_transfer
        if not (corrupt or truncated) or not self._active():
            return Damage.NONE
        draw = self._random.random()
        if draw >= corrupt + truncated:
            return Damage.NONE
        damage = Damage.CORRUPT if draw < corrupt else Damage.TRUNCATED
        self.counts[damage] += 1
        return damage
