"""Token embedding from a weight of any form, in C++."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from triptych.kernels import embedding as op
from triptych.kernels.native.gguf import KINDS
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit
from triptych.kernels.weights import DenseWeight, Int8Weight, Weight

_DENSE: Mapping[torch.dtype, int] = {torch.bfloat16: 0, torch.float32: 1}
_INT8 = 2
_GGUF = 3  # and the kinds of block from there on


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `embedding` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    op.register("native", "cpu", Embedding(isa), accepts)


def accepts(token_ids: Tensor, weight: Weight, out: Tensor) -> bool:
    """Whether the kernel takes these: tables and results of float32 and bfloat16, and both quantised forms."""
    table = plain(weight.values) if isinstance(weight, DenseWeight) else _packed(weight).is_contiguous()
    fits = token_ids.dim() == 1 and out.shape == (len(token_ids), weight.inputs)
    return table and fits and plain(out) and token_ids.dtype is torch.int64 and token_ids.is_contiguous()


class EmbeddingArgs(ctypes.Structure):
    """Mirror of `EmbeddingArgs` in src/embedding.cpp."""

    _fields_ = (
        ("ids", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("form", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
    )


class Embedding:
    """See `triptych.kernels.embedding`; an id out of range gives some row of the table."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[EmbeddingArgs] = load_kernel("embedding", "embedding", EmbeddingArgs, isa)

    def __call__(self, token_ids: Tensor, weight: Weight, out: Tensor) -> None:
        """Runs it, or records the call."""
        scales = weight.scales if isinstance(weight, Int8Weight) else None
        tensors = (token_ids, _packed(weight), scales, out)
        args = EmbeddingArgs(
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
            *out.shape,
            weight.outputs,
            _form(weight),
            out.dtype is torch.bfloat16,
        )
        submit(self._kernel, args, *tensors)


def _packed(weight: Weight) -> Tensor:
    match weight:
        case DenseWeight(values) | Int8Weight(values):
            return values
        case _:
            return weight.blocks


def _form(weight: Weight) -> int:
    match weight:
        case DenseWeight(values):
            return _DENSE[values.dtype]
        case Int8Weight():
            return _INT8
        case _:
            return _GGUF + KINDS[weight.kind]
