"""Latent attention, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels import latent as reference
from triptych.kernels.batch import AttentionBatch
from triptych.kernels.native.attention import has_plain_indices
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import submit

MAX_LATENT = 1 << 14
"""Eight heads' sums of which fit into a thread's scratch memory."""
_LANES = 16


def register(isa: Isa) -> None:
    """Makes the kernels the backend of `store_latent`, `absorb_query`, `latent_attention` and `expand_value` on CPUs.

    Raises:
        NotAvailable: they cannot be compiled here.
    """
    latent = Latent(isa)
    reference.store_latent.register("native", "cpu", latent.store, accepts_store)
    reference.absorb_query.register("native", "cpu", latent.absorb, accepts_absorb)
    reference.latent_attention.register("native", "cpu", latent.attend, accepts_attend)
    reference.expand_value.register("native", "cpu", latent.expand, accepts_expand)


def accepts_store(
    compressed: Tensor,
    weight: Tensor,
    eps: float,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    slots: Tensor,
    pages: Tensor,
    interleaved: bool = False,
) -> bool:
    """Whether the kernel takes these: rows and pages of one type, tables float32, the norm's weight either."""
    width = len(weight) + 2 * cos.shape[1]
    return (
        plain(compressed, pages)
        and weight.dtype in (compressed.dtype, torch.float32)
        and weight.is_contiguous()
        and _are_indices(positions, slots)
        and _are_tables(cos, sin)
        and compressed.shape == (len(positions), width)
        and pages.shape[1:3] == (1, 1)
        and pages.shape[4] == width
    )


def accepts_absorb(
    q: Tensor, key_up: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, out: Tensor, interleaved: bool = False
) -> bool:
    """Whether the kernel takes these: all of one type, a multiple of 16 compressed dimensions."""
    heads, inputs, latent = key_up.shape
    turned = 2 * cos.shape[1]
    return (
        plain(q, key_up, out)
        and _are_indices(positions)
        and _are_tables(cos, sin)
        and q.shape == (len(positions), heads, inputs + turned)
        and out.shape == (len(positions), heads, latent + turned)
        and latent % _LANES == 0
    )


def accepts_attend(q: Tensor, pages: Tensor, batch: AttentionBatch, scale: float, out: Tensor) -> bool:
    """Whether the kernel takes these: all of one type, a multiple of 16 compressed dimensions."""
    rows, heads, width = q.shape
    return (
        plain(q, pages, out)
        and has_plain_indices(batch)
        and pages.shape[1:3] == (1, 1)
        and pages.shape[4] == width
        and out.shape == (rows, heads, out.shape[2])
        and out.shape[2] <= min(width, MAX_LATENT)
        and out.shape[2] % _LANES == 0
    )


def accepts_expand(weighted: Tensor, value_up: Tensor, out: Tensor) -> bool:
    """Whether the kernel takes these: all of one type."""
    rows, heads, latent = weighted.shape
    return (
        plain(weighted, value_up, out)
        and value_up.shape == (heads, out.shape[2], latent)
        and out.shape[:2] == (rows, heads)
        and latent <= MAX_LATENT
    )


class StoreArgs(ctypes.Structure):
    """Mirror of `StoreArgs` in src/latent_rows.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "positions", "slots", "cos", "sin", "pages")),
        *((name, ctypes.c_int64) for name in ("rows", "latent", "half", "is_bf16", "wide_weight", "interleaved")),
        ("eps", ctypes.c_double),
    )


class AbsorbArgs(ctypes.Structure):
    """Mirror of `AbsorbArgs` in src/latent_rows.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "key_up", "positions", "cos", "sin", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "plain", "latent", "half", "is_bf16", "interleaved")),
    )


class ExpandArgs(ctypes.Structure):
    """Mirror of `ExpandArgs` in src/latent_rows.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "value_up", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "values", "latent", "is_bf16")),
    )


class LatentArgs(ctypes.Structure):
    """Mirror of `LatentArgs` in src/latent_attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "pages", "query_start", "kv_lengths", "block_tables", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "sequences", "table_stride", "heads", "width", "latent")),
        ("block_size", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


class Latent:
    """The four ops of `triptych.kernels.latent`."""

    def __init__(self, isa: Isa) -> None:
        self._store: Kernel[StoreArgs] = load_kernel("latent_rows", "store_latent", StoreArgs, isa)
        self._absorb: Kernel[AbsorbArgs] = load_kernel("latent_rows", "absorb_query", AbsorbArgs, isa)
        self._expand: Kernel[ExpandArgs] = load_kernel("latent_rows", "expand_value", ExpandArgs, isa)
        self._attend: Kernel[LatentArgs] = load_kernel("latent_attention", "latent_attention", LatentArgs, isa)

    def store(
        self,
        compressed: Tensor,
        weight: Tensor,
        eps: float,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        pages: Tensor,
        interleaved: bool = False,
    ) -> None:
        """See `triptych.kernels.store_latent`."""
        tensors = (compressed, weight, positions, slots, cos, sin, pages)
        types = (compressed.dtype is torch.bfloat16, weight.dtype is torch.float32, interleaved)
        sizes = (len(compressed), len(weight), cos.shape[1], *types, eps)
        submit(self._store, StoreArgs(*(tensor.data_ptr() for tensor in tensors), *sizes), *tensors)

    def absorb(
        self,
        q: Tensor,
        key_up: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        out: Tensor,
        interleaved: bool = False,
    ) -> None:
        """See `triptych.kernels.absorb_query`."""
        tensors = (q, key_up, positions, cos, sin, out)
        sizes = (len(q), *key_up.shape, cos.shape[1], q.dtype is torch.bfloat16, interleaved)
        submit(self._absorb, AbsorbArgs(*(tensor.data_ptr() for tensor in tensors), *sizes), *tensors)

    def attend(self, q: Tensor, pages: Tensor, batch: AttentionBatch, scale: float, out: Tensor) -> None:
        """See `triptych.kernels.latent_attention`."""
        tensors = (q, pages, batch.query_start, batch.kv_lengths, batch.block_tables, out)
        rows, heads, width = q.shape
        batched = (rows, len(batch.kv_lengths), batch.block_tables.stride(0))
        sizes = (heads, width, out.shape[2], pages.shape[3], q.dtype is torch.bfloat16, scale)
        submit(self._attend, LatentArgs(*(tensor.data_ptr() for tensor in tensors), *batched, *sizes), *tensors)

    def expand(self, weighted: Tensor, value_up: Tensor, out: Tensor) -> None:
        """See `triptych.kernels.expand_value`."""
        tensors = (weighted, value_up, out)
        sizes = (len(out), *value_up.shape, out.dtype is torch.bfloat16)
        submit(self._expand, ExpandArgs(*(tensor.data_ptr() for tensor in tensors), *sizes), *tensors)


def _are_indices(first: Tensor, *others: Tensor) -> bool:
    return all(
        tensor.dtype is torch.int64 and tensor.is_contiguous() and tensor.shape == first.shape
        for tensor in (first, *others)
    )


def _are_tables(cos: Tensor, sin: Tensor) -> bool:
    return plain(cos, sin) and cos.dtype is torch.float32 and cos.shape == sin.shape
