"""Steps whose experts could not all be read are run again, before anybody sees what they yielded."""

import logging
from collections.abc import Callable
from typing import Final

from triptych.core.errors import TriptychError, Unavailable
from triptych.experts.residency import Residency

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""So many times a step runs at most."""


def until_read(residency: Residency | None, run: Callable[[], object]) -> None:
    """Returns when a step that has just run was computed with the experts that it asked for.

    A step may run any number of times: its rows stand where they were, and keys and values are written where they
    have been written.

    Args:
        residency: What it was computed with; None where all experts are in memory.
        run: Runs it again.

    Raises:
        Unavailable: it has not come to that; the error of the last attempt is its cause.
    """
    for attempt in range(1, ATTEMPTS + 1):
        if (error := unread(residency)) is None:
            return
        if attempt == ATTEMPTS:
            raise given_up(error) from error
        logger.warning("a step is run again: %s", error)
        run()


def unread(residency: Residency | None) -> TriptychError | None:
    """Why the last step means nothing, if that is so. What could be mended has been."""
    try:
        if residency is not None:
            residency.check()
    except TriptychError as error:  # also of mending: the disk is full, or the checkpoint gone
        return error
    return None


def given_up(reason: object) -> Unavailable:
    """What the requests of a step hear that had to be given up."""
    return Unavailable(f"experts could not be read, {ATTEMPTS} times in a row: {reason}")
