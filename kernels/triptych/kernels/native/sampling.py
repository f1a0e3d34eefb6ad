"""Choice of a token from logits, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.team import submit
from triptych.kernels.sampling import draw_token

MAX_VOCABULARY = 1 << 18
"""What the kernel's scratch memory is enough for."""

_ELEMENTS = (torch.float32, torch.float64, torch.int64, torch.float64, torch.float64, torch.float64, torch.int64)


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `draw_token` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    draw_token.register("native", "cpu", DrawToken(isa), accepts)


def accepts(*tensors: Tensor) -> bool:
    """Whether the kernel takes these: types as the op describes them, and no more than `MAX_VOCABULARY` tokens."""
    logits, *others = tensors
    return (
        0 < logits.shape[1] <= MAX_VOCABULARY
        and all(t.dtype is dtype and t.is_contiguous() for t, dtype in zip(tensors, _ELEMENTS, strict=True))
        and all(tensor.shape == logits.shape[:1] for tensor in others)
    )


class DrawArgs(ctypes.Structure):
    """Mirror of `DrawArgs` in src/draw.cpp."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("temperature", ctypes.c_void_p),
        ("top_k", ctypes.c_void_p),
        ("top_p", ctypes.c_void_p),
        ("min_p", ctypes.c_void_p),
        ("u", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("vocabulary", ctypes.c_int64),
    )


class DrawToken:
    """See `triptych.kernels.draw_token`."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[DrawArgs] = load_kernel("draw", "draw_token", DrawArgs, isa)

    def __call__(
        self, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, u: Tensor, out: Tensor
    ) -> None:
        """Runs it, or records the call."""
        tensors = (logits, temperature, top_k, top_p, min_p, u, out)
        submit(self._kernel, DrawArgs(*(tensor.data_ptr() for tensor in tensors), *logits.shape), *tensors)
