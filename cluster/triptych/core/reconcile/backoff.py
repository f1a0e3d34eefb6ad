"""When a dead worker is started again."""

from dataclasses import dataclass
from typing import Final

from triptych.core.reconcile.policy import Policy


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """What is remembered of a worker's deaths.

    Attributes:
        total: Deaths since the cluster started; the number of the next start, too.
        streak: Deaths in a row, each soon after a start.
    """

    total: int = 0
    streak: int = 0


NONE: Final = RestartHistory()


def after_death(history: RestartHistory, lived: float, policy: Policy) -> tuple[RestartHistory, float]:
    """The next history, and seconds to wait before the next start.

    The first start comes at once; then the wait doubles while a worker keeps dying soon after its start, so that a
    broken one does not eat the machine.

    Args:
        history: So far.
        lived: Seconds that the worker served.
        policy: The delays.
    """
    streak = 1 if lived >= policy.healthy_after else history.streak + 1
    if streak == 1:
        return RestartHistory(history.total + 1, streak), 0.0
    doublings = min(streak - 2, 64)  # a float overflows at 1024 of them
    delay = min(policy.longest_delay, policy.first_delay * 2**doublings)
    return RestartHistory(history.total + 1, streak), delay
