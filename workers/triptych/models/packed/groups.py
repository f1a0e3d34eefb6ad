"""Numbers of a few bits with a scale and a zero per group of inputs."""

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss
from triptych.models.packed.arrays import Arrays, Floats

Integers = npt.NDArray[np.integer]


def group_of_inputs(arrays: Arrays, ending: str, inputs: int, count: int) -> Integers | None:
    """The group that each input belongs to, if an array says so; None: one group of one size after the other.

    Raises:
        DataLoss: there are no such groups.
    """
    if ending not in arrays.extents:
        if inputs % count:
            raise DataLoss(f"{arrays.what} has {inputs} inputs, which {count} groups of one size cannot hold")
        return None
    groups: Integers = arrays.raw(ending)
    if not ((groups >= 0) & (groups < count)).all():
        found = f"{groups.min()} to {groups.max()}"
        raise DataLoss(f"{arrays.what}: its {ending} must hold groups from 0 to {count - 1}, found {found}")
    in_order = not inputs % count and np.array_equal(groups, np.arange(inputs) // (inputs // count))
    return None if in_order else groups


def dequantize(numbers: npt.NDArray[np.uint8], zeros: Integers, scales: Floats, groups: Integers | None) -> Floats:
    """(number − zero) · scale for numbers [n, I], zeros and scales [n, groups]: exact differences, one rounding."""
    values = numbers.astype(np.float32, order="C")  # so that the reshape below is a view
    offsets = np.broadcast_to(zeros, scales.shape).astype(np.float32)
    if groups is None:
        grouped = values.reshape(*scales.shape, -1)
        grouped -= offsets[..., None]
        grouped *= scales[..., None]
    else:
        values -= offsets[:, groups]
        values *= scales[:, groups]
    return values
