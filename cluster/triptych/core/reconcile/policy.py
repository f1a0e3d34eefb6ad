"""How patient the rules are. All in seconds."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Policy:
    """Times of the rules.

    Attributes:
        hung_after: A worker whose process lives, and which the router does not hear for so long, is killed. Long
            enough for a connection to come back, or a paused process to be continued.
        stalled_after: The same for one that the router hears, and has given up because it computes nothing. The
            patience for that was the router's; this is long enough for a continued process to say that it computes.
        drain_grace: After its time a drained worker has so much more until what still runs there has moved.
        first_delay: Before the second start in a row of a worker that keeps dying; doubles with each further one.
        longest_delay: The most that it grows to.
        healthy_after: A worker that has served for so long has not died soon.
    """

    hung_after: float = 30.0
    stalled_after: float = 5.0
    drain_grace: float = 10.0
    first_delay: float = 0.5
    longest_delay: float = 30.0
    healthy_after: float = 60.0


DEFAULT: Final = Policy()
