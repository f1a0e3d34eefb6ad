"""The one error of a group of ranks."""

import logging
from collections.abc import Callable, Iterable

from triptych.core.errors import Unavailable

logger = logging.getLogger(__name__)


class RankLost(Unavailable):
    """A rank of the group has died, stands still, or has given the group up; nothing can be computed with it."""


def tell(callbacks: Iterable[Callable[[RankLost], object]], reason: RankLost) -> None:
    """Calls all of them: one that fails is logged, and does not keep the reason from the rest."""
    for callback in callbacks:
        try:
            callback(reason)
        except Exception:
            logger.exception("could not act on the loss of a rank: %s", reason.message)
