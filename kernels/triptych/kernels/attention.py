"""Causal attention over the paged cache."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels.batch import AttentionBatch, SequenceSpan
from triptych.kernels.dispatch import Op
from triptych.kernels.pages import gather


@Op
def paged_attention(
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
    """Causal grouped-query attention of new tokens to everything their sequence has in the cache (arXiv:2309.06180).

    Prompt chunks and decode tokens mix freely. The keys and values of this step must be stored already. Query i of n
    sees the first kv_length − n + i + 1 tokens, or the last `window` of those. Softmax is accumulated in float32. The
    reference computes each sequence by itself, so a result never depends on what else is in the batch.

    Args:
        q: [T, Hq, D], rotated.
        kv: [N, 2, Hkv, B, D], one layer of the pool, in the order of `pages`; Hkv divides Hq.
        batch: Where each sequence's rows and pages are.
        scale: Factor of the scores, as a rule D^−½.
        out: [T, Hq, D], not `q`.
        window: How many tokens a query sees, itself included (arXiv:2004.05150); 0 for all.
        softcap: Scores become softcap · tanh(score / softcap) (Gemma 2, arXiv:2408.00118); 0 for none.
        sinks: [Hq] float32, a score of each head that joins its softmax without a value (arXiv:2309.17453).
    """
    for span in batch.spans(kv.shape[3], kv.device):
        _attend(
            q[span.start : span.stop], kv, span, out[span.start : span.stop], window, _Scoring(scale, softcap, sinks)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Scoring:
    scale: float
    softcap: float
    sinks: Tensor | None


def _attend(q: Tensor, kv: Tensor, span: SequenceSpan, out: Tensor, window: int, scoring: _Scoring) -> None:
    queries, num_heads, head_dim = q.shape
    kv_heads = kv.shape[2]
    group = num_heads // kv_heads
    keys, values = (pages[:, : span.kv_length] for pages in gather(kv, span.blocks))
    if queries == 1:
        # The only query sees the end of the sequence, so that there is nothing to mask. The heads of a group become
        # the query rows of their key head: one pass over its keys instead of `group`.
        seen = slice(max(span.kv_length - window, 0) if window else 0, None)
        folded = q.view(1, kv_heads, group, head_dim)
        result = _attend_dense(
            folded, keys[None, :, seen], values[None, :, seen], None, scoring, (kv_heads, group, 1)
        )
        out.copy_(result.view(1, num_heads, head_dim))
        return
    # Key heads are the batch and a group's heads share their keys through a stride of zero: nothing is repeated.
    grouped = q.view(queries, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    shared = (kv_heads, group, span.kv_length, head_dim)
    keys, values = keys.unsqueeze(1).expand(shared), values.unsqueeze(1).expand(shared)
    result = _attend_dense(grouped, keys, values, span.mask(q, window), scoring, (kv_heads, group, 1, 1))
    out.view(queries, kv_heads, group, head_dim).copy_(result.permute(2, 0, 1, 3))


def _attend_dense(
    q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scoring: _Scoring, sinks_shape: tuple[int, ...]
) -> Tensor:
    scale, softcap = scoring.scale, scoring.softcap
    if not softcap and scoring.sinks is None:
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)
    scores = q.float() @ keys.float().transpose(-1, -2) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores += mask
    if scoring.sinks is None:
        return scores.softmax(-1).to(values.dtype) @ values
    sinks = scoring.sinks.view(sinks_shape).expand(*scores.shape[:-1], 1)
    weights = torch.cat((scores, sinks), dim=-1).softmax(-1)[..., :-1]
    return weights.to(values.dtype) @ values
