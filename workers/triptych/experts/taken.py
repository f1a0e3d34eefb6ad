"""The experts that the rows of a step took, as they were asked for."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from triptych.experts.steerable import Asked


class Traced(Protocol):
    """The part of a residency that writes down what it is asked for."""

    @property
    def layers(self) -> int:
        """How many layers have experts."""

    @property
    def quotas(self) -> Sequence[int]:
        """Experts that each layer keeps."""

    def trace(self, on: bool) -> None:
        """See `Steerable.trace`."""

    def drain(self) -> list[Asked]:
        """See `Steerable.drain`."""


class TakenExperts:
    """Of one rank that has all experts, step by step.

    Args:
        residency: Has this written down from now on.
        experts: Of the largest layer.

    Attributes:
        room: By layer: experts that it keeps from one step to the next.
        experts: Of the largest layer.
    """

    def __init__(self, residency: Traced, experts: int) -> None:
        self._residency = residency
        self.room = tuple(residency.quotas)
        self.experts = experts
        residency.trace(True)

    def last(self) -> npt.NDArray[np.int32]:
        """Those of the step that has just been computed: [layer, row, K], some of them twice where layers take fewer.

        A step that was run again has been asked for as often; its last run counts.
        """
        ids = [asked.ids for asked in self._residency.drain()[-self._residency.layers :]]
        most = max(each.shape[1] for each in ids)
        taken: npt.NDArray[np.int32] = torch.stack([_wide(each, most) for each in ids]).numpy()
        return taken


def _wide(ids: torch.Tensor, columns: int) -> torch.Tensor:
    """[T, columns], the last column repeated."""
    return ids if ids.shape[1] == columns else torch.cat([ids, ids[:, -1:].expand(-1, columns - ids.shape[1])], 1)
