"""The choice of experts, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.team import submit
from triptych.kernels.routing import Routing, route

MAX_EXPERTS = 1 << 16
"""Whose scores fit into a thread's scratch memory."""


def register(isa: Isa) -> None:
    """Makes the kernel the backend of `route` on CPUs.

    Raises:
        NotAvailable: it cannot be compiled here.
    """
    route.register("native", "cpu", Route(isa), accepts)


def accepts(logits: Tensor, correction: Tensor | None, routing: Routing, ids: Tensor, weights: Tensor) -> bool:
    """Whether the kernel takes these: types as the op describes them."""
    rows, experts = logits.shape
    floats = (logits, weights) if correction is None else (logits, weights, correction)
    return (
        all(tensor.dtype is torch.float32 and tensor.is_contiguous() for tensor in floats)
        and ids.dtype is torch.int32
        and ids.is_contiguous()
        and ids.shape == weights.shape
        and len(ids) == rows
        and 0 < ids.shape[1] <= experts <= MAX_EXPERTS
        and (correction is None or correction.shape == (experts,))
        and experts % routing.groups == 0
    )


class RouteArgs(ctypes.Structure):
    """Mirror of `RouteArgs` in src/route.cpp."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("correction", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("experts", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("sigmoid", ctypes.c_int64),
        ("renormalise", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("top_groups", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


class Route:
    """See `triptych.kernels.route`."""

    def __init__(self, isa: Isa) -> None:
        self._kernel: Kernel[RouteArgs] = load_kernel("route", "route", RouteArgs, isa)

    def __call__(
        self, logits: Tensor, correction: Tensor | None, routing: Routing, ids: Tensor, weights: Tensor
    ) -> None:
        """Runs it, or records the call."""
        tensors = (logits, correction, ids, weights)
        args = RouteArgs(
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
            *logits.shape,
            ids.shape[1],
            routing.scores == "sigmoid",
            routing.renormalise,
            routing.groups,
            routing.top_groups,
            routing.scale,
        )
        submit(self._kernel, args, *tensors)
