"""When a dead worker is started again: a pure rule."""

from dataclasses import dataclass

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
HEALTHY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """What is remembered of a worker's deaths.

    Attributes:
        total: Deaths since the cluster started.
        streak: Deaths in a row, each soon after a start.
    """

    total: int = 0
    streak: int = 0


def after_death(history: RestartHistory, lived: float) -> tuple[RestartHistory, float]:
    """The next history, and seconds to wait before the next start.

    The wait doubles while a worker keeps dying soon after its start, so that a broken one does not eat the machine.

    Args:
        history: So far.
        lived: Seconds that the worker served.
    """
    streak = 1 if lived >= HEALTHY_AFTER else history.streak + 1
    delay = 0.0 if streak == 1 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** (streak - 2))
    return RestartHistory(history.total + 1, streak), delay
