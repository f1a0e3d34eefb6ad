"""Attention: causal over the paged cache for decoders, bidirectional for vision towers."""

from torch import Tensor
from torch.nn import functional

from triptych.kernels.batch import AttentionBatch, SequenceSpan
from triptych.kernels.dispatch import Op


@Op
def paged_attention(q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, out: Tensor) -> None:
    """Causal grouped-query attention of new tokens to everything their sequence has in the cache (arXiv:2309.06180).

    Prompt chunks and decode tokens mix freely. The keys and values of this step must be stored already. Query i of n
    sees the first kv_length − n + i + 1 tokens. Softmax is accumulated in float32. The reference computes each
    sequence by itself, so a result never depends on what else is in the batch.

    Args:
        q: [T, Hq, D], rotated.
        kv: [N, 2, Hkv, B, D], one layer of the pool; Hkv divides Hq.
        batch: Where each sequence's rows and pages are.
        scale: Factor of the scores, as a rule D^−½.
        out: [T, Hq, D], not `q`.
    """
    for span in batch.spans(kv.shape[3], kv.device):
        _attend(q[span.start : span.stop], kv, span, scale, out[span.start : span.stop])


def _attend(q: Tensor, kv: Tensor, span: SequenceSpan, scale: float, out: Tensor) -> None:
    queries, num_heads, head_dim = q.shape
    kv_heads = kv.shape[2]
    group = num_heads // kv_heads
    pages = kv.permute(1, 2, 0, 3, 4).index_select(2, span.blocks)
    keys, values = pages.view(2, kv_heads, -1, head_dim)[:, :, : span.kv_length].unbind(0)
    if queries == 1:
        # The heads of a group become the query rows of their key head: one pass over its keys instead of `group`.
        folded = q.view(1, kv_heads, group, head_dim)
        result = functional.scaled_dot_product_attention(folded, keys.unsqueeze(0), values.unsqueeze(0), scale=scale)
        out.copy_(result.view(1, num_heads, head_dim))
        return
    # Key heads are the batch and a group's heads share their keys through a stride of zero: nothing is repeated.
    grouped = q.view(queries, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    shared = (kv_heads, group, span.kv_length, head_dim)
    whole = queries == span.kv_length
    result = functional.scaled_dot_product_attention(
        grouped,
        keys.unsqueeze(1).expand(shared),
        values.unsqueeze(1).expand(shared),
        attn_mask=None if whole else span.mask(q),
        is_causal=whole,
        scale=scale,
    )
    out.view(queries, kv_heads, group, head_dim).copy_(result.permute(2, 0, 1, 3))


@Op
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor) -> None:
    """Attention in which every token of an image sees every other.

    Args:
        q: [B, T, H, D].
        k: [B, T, H, D].
        v: [B, T, H, D].
        scale: Factor of the scores.
        out: [B, T, H, D], not an input.
    """
    result = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale
    )
    out.copy_(result.transpose(1, 2))
