"""A residency that remembers who was needed most, and stops reading in advance where that does not pay."""

import logging
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from triptych.experts.memory import Memory
from triptych.experts.pool import Pool
from triptych.experts.residency import Counts
from triptych.experts.speculation import SpeculationSwitch
from triptych.experts.steerable import Asked, Steerable
from triptych.kernels import Experts

logger = logging.getLogger(__name__)


class SteeredResidency:
    """See `Residency`.

    Args:
        inner: Keeps the experts.
        pool: Of it.
        memory: Who was needed most.
        switch: Of reading in advance; None where that is not for a measurement to say.
        clock: Seconds.
    """

    def __init__(
        self,
        inner: Steerable,
        pool: Pool,
        memory: Memory,
        switch: SpeculationSwitch | None,
        clock: Callable[[], float],
    ) -> None:
        self.inner = inner
        self.pool = pool
        self._memory = memory
        self._switch = switch
        self._clock = clock
        self._closed = False

    @property
    def layers(self) -> int:
        """See `Residency.layers`."""
        return self.inner.layers

    @property
    def recordable(self) -> bool:
        """See `Steerable.recordable`."""
        return self.inner.recordable

    @property
    def nbytes(self) -> int:
        """Of the slots."""
        return self.pool.nbytes

    @property
    def quotas(self) -> tuple[int, ...]:
        """Experts that each layer keeps."""
        return self.pool.quotas

    @property
    def counts(self) -> Counts:
        """See `Residency.counts`."""
        if self._switch is None:
            return self.inner.counts
        off = not self._switch.verdict.speculating
        return replace(self.inner.counts, switched_off=off, turns=self._switch.turns)

    def experts(self, layer: int) -> Experts:
        """See `Residency.experts`."""
        return self.inner.experts(layer)

    def ensure(self, layer: int, ids: Tensor) -> None:
        """See `Residency.ensure`."""
        self.inner.ensure(layer, ids)

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        """See `Residency.prefetch`."""
        self.inner.prefetch(layer, scores, top)

    def check(self) -> None:
        """See `Residency.check`."""
        self.inner.check()
        now = self._clock()
        if self._switch is not None:
            before = self._switch.verdict.why
            if self._switch.step(now, lambda: self.inner.counts):
                self.inner.speculate(self._switch.on)
            if self._switch.verdict.why != before:
                logger.info("%s", self._switch.verdict.why)
        if self._memory.due(now):
            self._remember(now)

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        """See `Residency.rebind`."""
        self._memory.add(layer, self.inner.uses(layer), self.inner.counts.steps)
        self.inner.rebind(layer, experts)
        self._memory.rebind(layer, experts)

    def trace(self, on: bool) -> None:
        """See `Steerable.trace`."""
        self.inner.trace(on)

    def drain(self) -> list[Asked]:
        """See `Steerable.drain`."""
        return self.inner.drain()

    def close(self) -> None:
        """See `Residency.close`."""
        if not self._closed:
            self._closed = True
            self._remember(self._clock())
            self.inner.close()

    def _remember(self, now: float) -> None:
        steps = self.inner.counts.steps
        for layer in range(self.inner.layers):
            self._memory.add(layer, self.inner.uses(layer), steps)
        self._memory.write(now)
