"""Which experts of the mixtures a rank keeps in its pool, and reading them ahead by the scores of all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.experts.residency import Residency


class RankExperts:
    """The mixtures of a model, as one rank has them.

    Args:
        residency: Keeps the experts.
        totals: E, by mixture.
        held: Whom the rank has, by mixture.
        device: Where scores are.

    Attributes:
        residency: See above.
    """

    def __init__(
        self, residency: Residency, totals: Sequence[int], held: Sequence[tuple[int, ...]], device: torch.device
    ) -> None:
        self.residency = residency
        self._totals = tuple(totals)
        self._device = device
        self._columns = [self._columns_of(total, experts) for total, experts in zip(totals, held, strict=True)]

    def prefetch(self, mixture: int, scores: Tensor, top: int) -> None:
        """Reads likely experts that the rank has; of each row its part of `top`.

        Args:
            mixture: To come in this step.
            scores: [n, E] float32.
            top: How many of a row's experts are likely, wherever they are.
        """
        columns = self._columns[mixture]
        if columns is None:
            self.residency.prefetch(mixture, scores, top)
        else:
            own = -(-top * len(columns) // self._totals[mixture])
            self.residency.prefetch(mixture, scores[:, columns], min(own, len(columns)))

    def rebind(self, mixture: int, experts: tuple[int, ...]) -> None:
        """Between steps: whom the rank has from now on. Nothing is read before somebody asks for it."""
        self.residency.rebind(mixture, experts)
        self._columns[mixture] = self._columns_of(self._totals[mixture], experts)

    def _columns_of(self, total: int, experts: tuple[int, ...]) -> Tensor | None:
        """None where the rank has all of them, in their order: then nothing has to be picked in a recorded step."""
        return None if experts == tuple(range(total)) else torch.tensor(experts, device=self._device)
