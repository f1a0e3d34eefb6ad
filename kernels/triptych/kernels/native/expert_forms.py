"""The products of a mixture of experts by each form of weight (src/experts.h)."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch

from triptych.kernels.compact import CompactWeight, ExpertWeight
from triptych.kernels.native import gguf, int8
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.weights import DenseWeight, GgufWeight, Int8Weight


class ExpertsArgs(ctypes.Structure):
    """Mirror of `ExpertsArgs` in src/experts.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("plan", ctypes.c_void_p),
        ("addresses", ctypes.c_void_p),
        ("others", ctypes.c_void_p),
        ("shares", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("experts", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("row_bytes", ctypes.c_int64),
        ("gate", ctypes.c_int64),
        ("alpha", ctypes.c_double),
        ("limit", ctypes.c_double),
        ("flags", ctypes.c_void_p),
        ("waited", ctypes.c_void_p),
        ("window", ctypes.c_void_p),
        ("partial", ctypes.c_void_p),
    )


class RowsArgs(ctypes.Structure):
    """Mirror of `ExpertRowsArgs` in src/experts.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class ExpertForm:
    """Kernels for one form of weight.

    Attributes:
        gated: The gated unit.
        summed: The weighted sum of the projections down.
        rows: Quantises rows for both; None where they are read as they are.
        row_bytes: What a row of so many inputs takes then, at most.
    """

    gated: Kernel[ExpertsArgs]
    summed: Kernel[ExpertsArgs]
    rows: Kernel[RowsArgs] | None
    row_bytes: Callable[[int], int]

    @classmethod
    def load(cls, source: str, isa: Isa, row_bytes: Callable[[int], int] | None = None) -> "ExpertForm":
        """Of src/source.cpp.

        Raises:
            NotAvailable: it cannot be compiled here.
        """
        gated, summed = (load_kernel(source, f"experts_{name}", ExpertsArgs, isa) for name in ("gated", "sum"))
        if row_bytes is None:
            return cls(gated, summed, None, lambda inputs: 0)
        return cls(gated, summed, load_kernel(source, "experts_rows", RowsArgs, isa), row_bytes)


class ExpertForms:
    """All of them, compiled for one instruction set."""

    def __init__(self, isa: Isa) -> None:
        self._dense = ExpertForm.load("experts_dense", isa)
        self._compact = ExpertForm.load("experts_compact", isa)
        self._int8 = ExpertForm.load("experts_int8", isa, int8.row_bytes)
        self._gguf = ExpertForm.load("experts_gguf", isa, gguf.row_bytes)
        self._gguf_f32 = ExpertForm.load("experts_gguf_f32", isa)

    def find(self, weight: ExpertWeight, dtype: torch.dtype) -> ExpertForm | None:
        """For a weight of this form and rows of this type, float32 or bfloat16."""
        match weight:
            case DenseWeight(values):
                return self._dense if values.dtype is dtype else None
            case CompactWeight():
                return self._compact if dtype is torch.bfloat16 else None
            case Int8Weight():
                return self._int8
            case GgufWeight():
                return self._gguf if dtype is torch.bfloat16 else self._gguf_f32


def kind_of(weight: ExpertWeight) -> int:
    """Of GGUF block."""
    return gguf.KINDS[weight.kind] if isinstance(weight, GgufWeight) else 0


def bytes_of(weight: ExpertWeight) -> int:
    """Of one output."""
    packed = weight.blocks if isinstance(weight, GgufWeight) else weight.values
    return packed.nbytes // weight.outputs
