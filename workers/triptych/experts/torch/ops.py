"""`ensure` and `prefetch` as ops: they have no kernel, so that a step that is being recorded ends up call by call."""

from typing import Protocol

from torch import Tensor

from triptych.kernels import Op


class Decides(Protocol):
    """What is behind the ops."""

    def demand(self, layer: int, ids: Tensor) -> None:
        """See `Residency.ensure`."""

    def speculate_on(self, layer: int, scores: Tensor, top: int) -> None:
        """See `Residency.prefetch`."""


@Op
def ensure(ids: Tensor, residency: Decides, layer: int) -> None:
    """Asks for experts."""
    residency.demand(layer, ids)


@Op
def prefetch(scores: Tensor, residency: Decides, layer: int, top: int) -> None:
    """Says who is likely to be asked for."""
    residency.speculate_on(layer, scores, top)
