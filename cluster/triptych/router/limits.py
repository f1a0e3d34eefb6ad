"""What a router allows: its requests, its workers, its memory."""

from dataclasses import dataclass, field

from triptych.core.fleet.observe import HealthLimits
from triptych.core.plan import RoutingPolicy


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """Limits of one router.

    Attributes:
        routing: Of the rule that chooses workers.
        health: When workers are given up.
        max_running: Requests that may run at once.
        max_retries: Attempts of one request that may fail before it does.
        replay_patience: Seconds that a request which lost its workers waits for others.
        picture_bytes: Encoded pictures that running requests may hold together.
    """

    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    health: HealthLimits = field(default_factory=HealthLimits)
    max_running: int = 256
    max_retries: int = 3
    replay_patience: float = 60.0
    picture_bytes: int = 1 << 30
