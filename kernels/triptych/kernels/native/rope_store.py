"""Rotation and the write to the paged cache, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit
from triptych.kernels.pages import packing
from triptych.kernels.rope_store import rope_store


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `rope_store` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    rope_store.register("native", "cpu", RopeStore(isa), accepts)


def accepts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    kv: Tensor,
    interleaved: bool = False,
) -> bool:
    """Whether the kernel takes these: float32 or bfloat16 in packed pages; tables float32."""
    tokens, _, head_dim = q.shape
    return (
        plain(q, k, v, kv)
        and plain(cos, sin)
        and cos.dtype is torch.float32
        and cos.shape == sin.shape
        and 2 * cos.shape[1] <= head_dim == kv.shape[4]
        and k.shape == v.shape == (tokens, kv.shape[2], head_dim)
        and positions.shape == slots.shape == (tokens,)
        and positions.dtype is slots.dtype is torch.int64
        and positions.is_contiguous()
        and slots.is_contiguous()
        and packing(kv) == 4 // kv.itemsize
    )


class RopeStoreArgs(ctypes.Structure):
    """Mirror of `RopeStoreArgs` in src/rope_store.cpp."""

    _fields_ = (
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("kv", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("q_heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("half", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
    )


class RopeStore:
    """See `triptych.kernels.rope_store`."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[RopeStoreArgs] = load_kernel("rope_store", "rope_store", RopeStoreArgs, isa)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        kv: Tensor,
        interleaved: bool = False,
    ) -> None:
        """Runs it, or records the call."""
        tensors = (q, k, v, positions, slots, cos, sin, kv)
        args = RopeStoreArgs(
            *(tensor.data_ptr() for tensor in tensors),
            *q.shape[:2],
            k.shape[1],
            q.shape[2],
            cos.shape[1],
            kv.shape[3],
            q.dtype is torch.bfloat16,
            interleaved,
        )
        submit(self._kernel, args, *tensors)
