"""Attention without a direction, for vision towers."""

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor
from torch.nn import functional

from triptych.kernels.dispatch import Op, require_shape


@Op
def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Sequence[int], scale: float, out: Tensor) -> None:
    """Attention in which every row of a segment (a picture, a tile, a window) sees that segment and no more.

    Neighbouring segments of one length are computed together: callers that may choose put those side by side.

    Args:
        q: [T, H, D].
        k: [T, H, D].
        v: [T, H, D].
        segments: Lengths of the segments, from first to last; their sum is T.
        scale: Factor of the scores.
        out: [T, H, D], not an input.
    """
    require_shape(out, *q.shape)
    start = 0
    for length, run in groupby(segments):
        count = sum(1 for _ in run)
        stop = start + count * length
        batch = (count, length, *q.shape[1:])
        queries, keys, values = (x[start:stop].view(batch).transpose(1, 2) for x in (q, k, v))
        result = functional.scaled_dot_product_attention(queries, keys, values, scale=scale)
        out[start:stop].view(batch).copy_(result.transpose(1, 2))
        start = stop
    if start != len(q):
        raise ValueError(f"segments must have {len(q)} rows in all, got {start}")
