"""Writes to the paged KV cache."""

from torch import Tensor

from triptych.kernels.pages import keys_view, packing, values_view


def store_kv(k: Tensor, v: Tensor, slots: Tensor, kv: Tensor) -> None:
    """Writes the keys and values of a step into their slots.

    Args:
        k: [T, Hkv, D].
        v: [T, Hkv, D].
        slots: [T] int64; slot = block · B + offset of the token in its block, all different.
        kv: [N, 2, Hkv, B, D], one layer of the pool, updated.
    """
    block_size, packed = kv.shape[3], packing(kv)
    blocks = slots.div(block_size, rounding_mode="floor")
    offsets = slots.remainder(block_size)
    keys_view(kv)[blocks, :, offsets] = k.view(*k.shape[:2], -1, packed)
    values_view(kv)[blocks, :, offsets.div(packed, rounding_mode="floor"), offsets.remainder(packed)] = v
