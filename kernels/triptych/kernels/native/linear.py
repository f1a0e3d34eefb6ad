"""Projections in C++: each form of weight has its own kernels, and the ops choose among them."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from triptych.kernels import gated_linear, linear, linear_argmax, linears
from triptych.kernels.linear import Projection
from triptych.kernels.native.dense import Dense
from triptych.kernels.native.gguf import Gguf
from triptych.kernels.native.int8 import Int8
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.plain import plain
from triptych.kernels.native.projection import MAX_PARTS, ProjectionKernels
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight, Weight


def register(isa: Isa) -> None:
    """Makes the kernels the backend of the projections on CPUs.

    Raises:
        NotAvailable: they cannot be compiled here.
    """
    ops = Linear(isa)
    linear.register("native", "cpu", ops.linear, ops.takes_linear)
    linears.register("native", "cpu", ops.linears, ops.takes_linears)
    gated_linear.register("native", "cpu", ops.gated_linear, ops.takes_gated_linear)
    linear_argmax.register("native", "cpu", ops.linear_argmax, ops.takes_linear_argmax)


class Linear:
    """`linear`, `linears`, `gated_linear` and `linear_argmax`."""

    def __init__(self, isa: Isa) -> None:
        # Each of these kernels is only ever given weights of the form that it is listed under.
        self._forms: Mapping[type[Weight], ProjectionKernels[Any]] = {
            DenseWeight: Dense(isa),
            Int8Weight: Int8(isa),
            GgufWeight: Gguf(isa),
        }

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None, out: Tensor) -> None:
        """See `triptych.kernels.linear`."""
        self._forms[type(weight)].project(x, ((weight, bias, out),))

    def linears(self, x: Tensor, projections: Sequence[Projection]) -> None:
        """See `triptych.kernels.linears`."""
        for form, alike in groupby(projections, key=lambda projection: type(projection[0])):
            parts = tuple(alike)
            for first in range(0, len(parts), MAX_PARTS):
                self._forms[form].project(x, parts[first : first + MAX_PARTS])

    def gated_linear(self, x: Tensor, gate: Weight, up: Weight, out: Tensor) -> None:
        """See `triptych.kernels.gated_linear`."""
        self._forms[type(gate)].gated(x, gate, up, out)

    def linear_argmax(self, x: Tensor, weight: Weight, ids: Tensor, values: Tensor) -> None:
        """See `triptych.kernels.linear_argmax`."""
        self._forms[type(weight)].argmax(x, weight, ids, values)

    def takes_linear(self, x: Tensor, weight: Weight, bias: Tensor | None, out: Tensor) -> bool:
        """Whether there is a kernel for these arguments."""
        given = (x,) if bias is None else (x, bias)
        fits = bias is None or bias.shape == (weight.outputs,)
        return plain(*given) and fits and _result(x, weight, out) and self._takes(x, weight)

    def takes_linears(self, x: Tensor, projections: Sequence[Projection]) -> bool:
        """Whether there are kernels for all of these."""
        return all(self.takes_linear(x, *projection) for projection in projections)

    def takes_gated_linear(self, x: Tensor, gate: Weight, up: Weight, out: Tensor) -> bool:
        """Whether there is a kernel for these arguments: gate and up are of one form."""
        fit = gate.outputs == up.outputs and _result(x, gate, out)
        return _alike(gate, up) and fit and plain(x, out) and self._takes(x, gate) and self._takes(x, up)

    def takes_linear_argmax(self, x: Tensor, weight: Weight, ids: Tensor, values: Tensor) -> bool:
        """Whether there is a kernel for these arguments."""
        results = (
            ids.dtype is torch.int64
            and values.dtype is torch.float32
            and ids.shape == values.shape == x.shape[:1]
            and ids.is_contiguous()
            and values.is_contiguous()
        )
        return results and plain(x) and self._takes(x, weight)

    def _takes(self, x: Tensor, weight: Weight) -> bool:
        kernels = self._forms.get(type(weight))
        return kernels is not None and x.shape[1:] == (weight.inputs,) and kernels.takes(x, weight)


def _alike(gate: Weight, up: Weight) -> bool:
    if isinstance(gate, GgufWeight) and isinstance(up, GgufWeight):
        return gate.kind == up.kind
    return type(gate) is type(up)


def _result(x: Tensor, weight: Weight, out: Tensor) -> bool:
    shape = (x.shape[0], weight.outputs)
    return out.dtype in (x.dtype, torch.float32) and out.shape == shape and out.is_contiguous()
