"""Writes to the paged KV cache."""

from torch import Tensor

from triptych.kernels.dispatch import Op

_FEW_TOKENS = 8


@Op
def store_kv(k: Tensor, v: Tensor, slots: Tensor, kv: Tensor) -> None:
    """Writes the keys and values of a step into their slots.

    Args:
        k: [T, Hkv, D].
        v: [T, Hkv, D].
        slots: [T] int64; slot = block · B + offset of the token in its block, all different.
        kv: [N, 2, Hkv, B, D], one layer of the pool, updated.
    """
    block_size = kv.shape[3]
    if slots.numel() <= _FEW_TOKENS:  # a copy per row costs less than one indexed write up to about here
        for row, slot in enumerate(slots.tolist()):
            token = kv[slot // block_size, :, :, slot % block_size]
            token[0].copy_(k[row])
            token[1].copy_(v[row])
        return
    blocks = slots.div(block_size, rounding_mode="floor")
    offsets = slots.remainder(block_size)
    kv[:, 0][blocks, :, offsets] = k
    kv[:, 1][blocks, :, offsets] = v
