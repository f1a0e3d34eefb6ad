"""Experts of bfloat16 in twelve bits a weight (`triptych.kernels.compact`)."""

import torch

from triptych.experts.blob import BlobLayout, Expert, Matrix
from triptych.kernels import DenseWeight
from triptych.kernels.compact import CompactWeight, ExpertWeight, compactable, compacted, empty_like


class NotCompact(Exception):
    """An expert has too many exponents that lie far below their neighbours'."""


def in_twelve_bits(expert: Expert) -> Expert:
    """The same expert in three quarters of the bytes.

    Args:
        expert: Of a layout that `compact_layout` has one for.

    Raises:
        NotCompact: it has none.
    """
    gate, up, down = (Matrix(_compact(matrix.weight), matrix.bias) for matrix in expert)
    return gate, up, down


def compact_layout(layout: BlobLayout) -> BlobLayout | None:
    """Of the same experts in that form; None where it is not for weights of this type or shape, or larger."""
    expert = layout.view(torch.empty(layout.nbytes, dtype=torch.uint8))
    if not all(compactable(matrix.weight) for matrix in expert):
        return None
    gate, up, down = (Matrix(empty_like(matrix.weight), matrix.bias) for matrix in expert)
    compact = BlobLayout.of((gate, up, down))
    return compact if compact.nbytes <= layout.nbytes else None


def _compact(weight: ExpertWeight) -> CompactWeight:
    assert isinstance(weight, DenseWeight), weight
    if (compact := compacted(weight)) is None:
        raise NotCompact("exponents of an expert lie too far apart")
    return compact
