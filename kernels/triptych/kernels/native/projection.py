"""What the C++ kernels of one form of weight offer to the ops that project rows (`native.linear`)."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from triptych.kernels.weights import Weight

MAX_PARTS = 4
"""Projections that one call of a kernel computes."""

W = TypeVar("W", bound=Weight, contravariant=True)


class ProjectionKernels(Protocol[W]):
    """Kernels for one form of weight.

    All tensors are contiguous. x and biases are of one type, float32 or bfloat16; an output is of that type or
    float32.
    """

    def takes(self, x: Tensor, weight: W) -> bool:
        """Whether there is a kernel for this type of x and this weight."""

    def project(self, x: Tensor, parts: Sequence[tuple[W, Tensor | None, Tensor]]) -> None:
        """See `triptych.kernels.linears`; at most `MAX_PARTS` of them, their weights of one form."""

    def gated(self, x: Tensor, gate: W, up: W, out: Tensor) -> None:
        """See `triptych.kernels.gated_linear`."""

    def argmax(self, x: Tensor, weight: W, ids: Tensor, values: Tensor) -> None:
        """See `triptych.kernels.linear_argmax`."""
