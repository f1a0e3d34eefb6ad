"""The order of elements in the pages of the KV pool.

A pool is a tensor [layer, block, 2 (k|v), Hkv, B, D]: within a layer a run of blocks is contiguous, and within a
block one head's slab of B · D keys or values is. Inside a slab the order is the one in which the dot products of
attention read whole vectors, with p elements to 32 bits (2 for 16-bit types, 1 for float32, and 1 for sizes that p
does not divide):

    keys    [D/p][B][p]   consecutive lanes are consecutive tokens: a dot product over D needs no sum across lanes
    values  [B/p][D][p]   p consecutive tokens lie together: the pair that one instruction multiplies and adds

Who moves whole blocks need not know. Everything else goes through the views of this module.
"""

from torch import Tensor


def packing(kv: Tensor) -> int:
    """How many elements lie together: p above.

    Args:
        kv: [..., B, D].
    """
    block_size, head_dim = kv.shape[-2:]
    packed = max(4 // kv.itemsize, 1)
    return packed if block_size % packed == 0 and head_dim % packed == 0 else 1


def keys_view(kv: Tensor) -> Tensor:
    """The keys of one layer, by token: a view [N, Hkv, B, D/p, p].

    Args:
        kv: [N, 2, Hkv, B, D], one layer of the pool.
    """
    blocks, _, heads, block_size, head_dim = kv.shape
    packed = packing(kv)
    return kv[:, 0].view(blocks, heads, head_dim // packed, block_size, packed).transpose(2, 3)


def values_view(kv: Tensor) -> Tensor:
    """The values of one layer, by token: a view [N, Hkv, B/p, p, D]; token t of a block is [t // p, t % p].

    Args:
        kv: [N, 2, Hkv, B, D], one layer of the pool.
    """
    blocks, _, heads, block_size, head_dim = kv.shape
    packed = packing(kv)
    return kv[:, 1].view(blocks, heads, block_size // packed, head_dim, packed).transpose(3, 4)


def gather(kv: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of some blocks, token after token: two copies [Hkv, len(blocks) · B, D].

    Args:
        kv: [N, 2, Hkv, B, D], one layer of the pool.
        blocks: int64, on the device of `kv`.
    """
    _, _, heads, _, head_dim = kv.shape
    keys, values = (view.index_select(0, blocks).transpose(0, 1) for view in (keys_view(kv), values_view(kv)))
    return keys.reshape(heads, -1, head_dim), values.reshape(heads, -1, head_dim)
