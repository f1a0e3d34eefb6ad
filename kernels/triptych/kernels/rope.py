"""Rotary position embedding."""

from torch import Tensor


def rope(q: Tensor, k: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> None:
    """Rotates queries and keys in place by their positions (arXiv:2104.09864).

    The first R ≤ D dimensions of a head are rotated, the others kept. Dimension i is paired with dimension i + R/2,
    the layout of Hugging Face checkpoints, or interleaved, 2i with 2i + 1, the layout of llama.cpp's. The rotation is
    computed in the tables' type.

    Args:
        q: [T, Hq, D], updated.
        k: [T, Hkv, D], updated.
        positions: [T] int64, each in [0, P).
        cos: [P, R/2], float32 as a rule.
        sin: [P, R/2].
        interleaved: Whether pairs are neighbours.
    """
    for heads in (q, k):
        turn(heads, positions, cos, sin, interleaved)


def turn(heads: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> None:
    """Rotates the first R dimensions of heads [T, H, D] in place, as `rope` does."""
    row_cos = cos.index_select(0, positions).unsqueeze(1)
    row_sin = sin.index_select(0, positions).unsqueeze(1)
    turned = heads[..., : 2 * cos.shape[1]]
    low, high = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    rotated = (low * row_cos).addcmul_(high, row_sin, value=-1)
    high.copy_((high * row_cos).addcmul_(low, row_sin))
    low.copy_(rotated)
