"""Projections of rows by weights of any form, and what is fused with them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from triptych.kernels.activation import silu_mul
from triptych.kernels.dispatch import Op, require_shape
from triptych.kernels.weights import DenseWeight, Weight, dequantize

Projection = tuple[Weight, Tensor | None, Tensor]
"""A weight [O, I], its bias [O] or None, and the output [T, O]."""

_CHUNK_ELEMENTS = 1 << 21  # of a weight that are held as float32 at a time


@Op
def linear(x: Tensor, weight: Weight, bias: Tensor | None, out: Tensor) -> None:
    """Projects rows: out = x · weightᵀ + bias.

    The reference computes in float32 where weight, x and out are not all of one type; other backends may quantise x
    for a quantised weight.

    Args:
        x: [T, I].
        weight: [O, I].
        bias: [O] or None.
        out: [T, O] of the type of `x`, or float32; not `x`.
    """
    _linear(x, weight, bias, out)


@Op
def linears(x: Tensor, projections: Sequence[Projection]) -> None:
    """Several projections of the same rows, such as queries, keys and values.

    Args:
        x: [T, I].
        projections: Outputs are apart from each other and from `x`.
    """
    for weight, bias, out in projections:
        _linear(x, weight, bias, out)


@Op
def gated_linear(x: Tensor, gate: Weight, up: Weight, out: Tensor) -> None:
    """Gated linear unit: out = silu(x · gateᵀ) · (x · upᵀ) (arXiv:2002.05202).

    Args:
        x: [T, I].
        gate: [F, I].
        up: [F, I].
        out: [T, F] of the type of `x`, not `x`.
    """
    gated, linear_part = torch.empty_like(out), torch.empty_like(out)
    _linear(x, gate, None, gated)
    _linear(x, up, None, linear_part)
    silu_mul.implementation("reference")(gated, linear_part, out)


@Op
def linear_argmax(x: Tensor, weight: Weight, ids: Tensor, values: Tensor) -> None:
    """The largest element of every row of x · weightᵀ, which is not kept: the greedy token of a head.

    Args:
        x: [T, I].
        weight: [O, I].
        ids: [T] int64, where each row's largest element is; the first of several equal ones.
        values: [T] float32, that element.
    """
    require_shape(ids, x.shape[0])
    require_shape(values, x.shape[0])
    wide = x.float()
    values.fill_(-torch.inf)
    ids.zero_()
    for rows in _chunks(weight):
        largest, place = torch.mm(wide, dequantize(weight, rows).t()).max(dim=1)
        better = largest > values
        values.copy_(torch.where(better, largest, values))
        ids.copy_(torch.where(better, place + rows.start, ids))


def _linear(x: Tensor, weight: Weight, bias: Tensor | None, out: Tensor) -> None:
    require_shape(out, x.shape[0], weight.outputs)
    if isinstance(weight, DenseWeight) and weight.values.dtype == x.dtype == out.dtype:
        if bias is None:
            torch.mm(x, weight.values.t(), out=out)
        else:
            torch.addmm(bias, x, weight.values.t(), out=out)
        return
    wide = x.float()
    for rows in _chunks(weight):
        product = torch.mm(wide, dequantize(weight, rows).t())
        out[:, rows] = product if bias is None else product.add_(bias[rows])


def _chunks(weight: Weight) -> Iterator[slice]:
    step = max(1, _CHUNK_ELEMENTS // max(1, weight.inputs))
    for start in range(0, weight.outputs, step):
        yield slice(start, min(start + step, weight.outputs))
