"""What the adapters of a step's rows add to its projections."""

from torch import Tensor

from triptych.kernels import low_rank
from triptych.models.parameters import Linear
from triptych.models.step import StepInput


def adapt(step: StepInput, x: Tensor, *projections: tuple[Linear, Tensor]) -> None:
    """Adds it.

    Args:
        step: T rows.
        x: [T, I], what was projected.
        projections: What it was projected by, and the results [T, O].
    """
    if step.adapters is None:
        return
    adapted = [(linear.low_rank, out) for linear, out in projections if linear.low_rank is not None]
    if adapted:
        low_rank(x, step.adapters, adapted)
