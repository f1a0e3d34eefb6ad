"""Attention to the paged cache, in C++."""

import ctypes

import torch
from torch import Tensor

from triptych.kernels.attention import paged_attention
from triptych.kernels.batch import AttentionBatch
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.team import submit, workspace

_TILE_ROWS = 48  # these three as in src/attention_work.h
_MAX_SPLITS = 16
_SPLIT_TOKENS = 512
_LANES = 16
_MAX_HEAD_DIM = 256
_MAX_GROUP = 128


def register(isa: Isa) -> None:
    """Makes the kernels the backend of `paged_attention` on CPUs.

    Raises:
        NotAvailable: they cannot be compiled here.
    """
    paged_attention.register("native", "cpu", PagedAttention(isa), accepts)


def accepts(
    q: Tensor,
    kv: Tensor,
    batch: AttentionBatch,
    scale: float,
    out: Tensor,
    *,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> bool:
    """Whether the kernels take these arguments: bfloat16 or float32, blocks and heads of multiples of 16."""
    block_size, head_dim = kv.shape[-2:]
    return (
        _fits(q, kv, out)
        and has_plain_indices(batch)
        and q.dtype in (torch.bfloat16, torch.float32)
        and q.dtype is kv.dtype is out.dtype
        and kv.is_contiguous()
        and _has_plain_rows(q)
        and _has_plain_rows(out)
        and block_size % _LANES == 0
        and head_dim % _LANES == 0
        and head_dim <= _MAX_HEAD_DIM
        and q.shape[1] <= _MAX_GROUP * kv.shape[2]
        and scale > 0
        and not batch.images
        and (sinks is None or (sinks.dtype is torch.float32 and sinks.is_contiguous() and len(sinks) == q.shape[1]))
    )


class AttentionArgs(ctypes.Structure):
    """Mirror of `AttentionArgs` in src/attention_work.h."""

    _fields_ = (
        ("q", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("query_start", ctypes.c_void_p),
        ("kv_lengths", ctypes.c_void_p),
        ("block_tables", ctypes.c_void_p),
        ("sinks", ctypes.c_void_p),
        ("partials", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("sequences", ctypes.c_int64),
        ("table_stride", ctypes.c_int64),
        ("q_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("is_bf16", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("softcap", ctypes.c_double),
    )


class PagedAttention:
    """`paged_attention`: one kernel attends, a second one merges what long sequences were split into."""

    def __init__(self, isa: Isa) -> None:
        self._attend: Kernel[AttentionArgs] = load_kernel("attention", "attention", AttentionArgs, isa)
        self._merge: Kernel[AttentionArgs] = load_kernel("attention", "attention_merge", AttentionArgs, isa)

    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        batch: AttentionBatch,
        scale: float,
        out: Tensor,
        *,
        window: int = 0,
        softcap: float = 0.0,
        sinks: Tensor | None = None,
    ) -> None:
        """See `triptych.kernels.paged_attention`."""
        _, _, kv_heads, block_size, head_dim = kv.shape
        rows, heads, _ = q.shape
        partials = None
        if batch.block_tables.shape[1] * block_size > _SPLIT_TOKENS:
            partials = workspace(_partial_bytes(batch, rows, heads, kv_heads, head_dim))
        args = AttentionArgs(
            q.data_ptr(),
            kv.data_ptr(),
            batch.query_start.data_ptr(),
            batch.kv_lengths.data_ptr(),
            batch.block_tables.data_ptr(),
            None if sinks is None else sinks.data_ptr(),
            None if partials is None else partials.data_ptr(),
            out.data_ptr(),
            batch.kv_lengths.shape[0],
            batch.block_tables.stride(0),
            q.stride(0),
            out.stride(0),
            heads,
            kv_heads,
            block_size,
            head_dim,
            window,
            q.dtype is torch.bfloat16,
            scale,
            softcap,
        )
        tensors = (q, kv, batch.query_start, batch.kv_lengths, batch.block_tables, sinks, partials, out)
        submit(self._attend, args, *tensors)
        if partials is not None:
            submit(self._merge, args, *tensors)


def _partial_bytes(batch: AttentionBatch, rows: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """What the splits of a batch can leave at most: only sequences with at most one tile of queries are split.

    float32. Most of it is never touched, and costs nothing.
    """
    tile = min(max(_TILE_ROWS * kv_heads // heads, 1), _TILE_ROWS)
    return min(rows, batch.kv_lengths.shape[0] * tile) * heads * _MAX_SPLITS * (head_dim + 2) * 4


def _fits(q: Tensor, kv: Tensor, out: Tensor) -> bool:
    return q.shape == out.shape and q.shape[2] == kv.shape[4] and q.shape[1] % kv.shape[2] == 0


def has_plain_indices(batch: AttentionBatch) -> bool:
    """Whether the kernels can read where the sequences are."""
    starts, lengths, tables = batch.query_start, batch.kv_lengths, batch.block_tables
    return (
        starts.dtype is lengths.dtype is tables.dtype is torch.int32
        and starts.is_contiguous()
        and lengths.is_contiguous()
        and tables.stride(1) == 1
        and len(starts) - 1 == len(lengths) == len(tables)
    )


def _has_plain_rows(x: Tensor) -> bool:
    _, _, head_dim = x.shape
    return x.stride(2) == 1 and x.stride(1) == head_dim
