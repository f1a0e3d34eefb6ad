"""Numbers of a few bits with a scale and a zero per group of inputs."""

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss
from triptych.models.packed.arrays import Arrays, Floats

Integers = npt.NDArray[np.integer]


def group_of_inputs(arrays: Arrays, ending: str | None, inputs: int, count: int) -> Integers:
    """The group that each input belongs to: as an array says, or one group after the other."""
    if ending is not None and ending in arrays.extents:
        groups: Integers = arrays.raw(ending)
        if not ((groups >= 0) & (groups < count)).all():
            found = f"{groups.min()} to {groups.max()}"
            raise DataLoss(f"{arrays.what}: its {ending} must hold groups from 0 to {count - 1}, found {found}")
        return groups
    if inputs % count:
        raise DataLoss(f"{arrays.what} has {inputs} inputs, which {count} groups of one size cannot hold")
    return np.arange(inputs) // (inputs // count)


def dequantize(numbers: Integers, zeros: Integers, scales: Floats, groups: Integers) -> Floats:
    """(number − zero) · scale for numbers [n, I], zeros and scales [n, groups]: exact differences, one rounding."""
    zeros = np.broadcast_to(zeros, scales.shape)
    values = numbers.astype(np.float32)
    values -= zeros.astype(np.float32)[:, groups]
    values *= scales[:, groups]
    return values
