"""Rotary position embedding and the write to the paged cache, in one pass over queries, keys and values."""

from torch import Tensor

from triptych.kernels.dispatch import Op
from triptych.kernels.kv_cache import store_kv
from triptych.kernels.rope import rope


@Op
def rope_store(
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
    """Rotates queries in place, and writes rotated keys and the values into their slots: `rope`, then `store_kv`.

    Args:
        q: [T, Hq, D], updated.
        k: [T, Hkv, D]; undefined afterwards.
        v: [T, Hkv, D].
        positions: [T] int64, each in [0, P).
        cos: [P, R/2], float32 as a rule; R ≤ D dimensions of a head are rotated.
        sin: [P, R/2].
        slots: [T] int64; slot = block · B + offset of the token in its block, all different.
        kv: [N, 2, Hkv, B, D], one layer of the pool, in the order of `pages`; updated.
        interleaved: Whether pairs of dimensions are neighbours, as in `rope`.
    """
    rope(q, k, positions, cos, sin, interleaved)
    store_kv(k, v, slots, kv)
