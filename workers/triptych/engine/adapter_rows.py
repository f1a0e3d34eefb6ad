"""Which adapter each row of a step has, as numbers that stay where they are."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.engine.plan import StepPlan

_NONE = -1


class AdapterRows:
    """Turns names of adapters into rows of a step input.

    Args:
        rows: Tokens of the largest step.
        names: The decoder's adapters, by number.
        device: Of the decoder.

    Attributes:
        names: The decoder's adapters, by number.
    """

    def __init__(self, rows: int, names: tuple[str, ...], device: torch.device) -> None:
        self.names = names
        self._numbers = {"": _NONE} | {name: number for number, name in enumerate(names)}
        self._device = device
        self._tensor = torch.zeros(rows, dtype=torch.int32)
        self._values: npt.NDArray[np.int32] = self._tensor.numpy()

    def of(self, plan: StepPlan) -> Tensor | None:
        """[T] int32; None when no row has an adapter. Valid until the next call."""
        if not any(sequence.adapter for sequence in plan.sequences):
            return None
        row = len(plan.decodes)
        self._values[:row] = [self._numbers[sequence.adapter] for sequence in plan.decodes]
        for chunk in plan.prompts:
            self._values[row : row + chunk.length] = self._numbers[chunk.sequence.adapter]
            row += chunk.length
        return self._tensor[:row].to(self._device)
