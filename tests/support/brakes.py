"""Holds a worker up between two of its steps, so that a test need not be quicker than it is."""

import math
from collections.abc import Callable
from typing import Any


def _nothing() -> None:
    pass


class Brake:
    """How many steps an engine may still make: none, until it is allowed some.

    A worker that is held up hears, says and moves everything as it does when there is nothing to compute.

    Args:
        core: An `EngineCore`.
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        self._until: float = core.steps
        self._step = core.step
        core.step = self._braked

    def hold(self) -> None:
        """No further step."""
        self._until = self._core.steps

    def allow(self, steps: int) -> None:
        """So many more steps from now."""
        self._until = self._core.steps + steps

    def release(self) -> None:
        """As many as there are to make."""
        self._until = math.inf

    @property
    def standing(self) -> bool:
        """Whether all that were allowed have been made."""
        return bool(self._core.steps >= self._until)

    def _braked(self, meanwhile: Callable[[], None] = _nothing) -> Any:
        if self._core.steps < self._until:
            return self._step(meanwhile)
        scheduler = self._core.scheduler
        # As a step does: who waits for a place in the batch keeps others from blocks of their own.
        scheduler._roster.promote(scheduler.options.max_running)
        meanwhile()
        return None
