"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434), absorbed: every head attends to the cached vectors.

The cache keeps one vector of a token, for all heads: C dimensions that keys and values are made of, and R turned
dimensions that all keys share. A head's key is key_up · c, so its score is (key_upᵀ · query) · c: queries go down to
the C dimensions instead of keys up from them. Values are weighted while they are compressed, and go up after that.

    pages   [N, 1, 1, B, C + R], one layer of the pool, token after token
"""

import torch
from torch import Tensor

from triptych.kernels.batch import AttentionBatch, SequenceSpan
from triptych.kernels.dispatch import Op, require_shape
from triptych.kernels.rope import turn


@Op
def absorb_query(
    q: Tensor, key_up: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, out: Tensor, interleaved: bool = False
) -> None:
    """Makes queries of what the cache keeps: out = [key_upᵀ · q | turned q], per head.

    Args:
        q: [T, Hq, P + R]: P plain dimensions, then those that are turned.
        key_up: [Hq, P, C].
        positions: [T] int64, each in the tables.
        cos: [positions, R/2], float32 as a rule.
        sin: [positions, R/2].
        out: [T, Hq, C + R].
        interleaved: Whether pairs of dimensions are neighbours, as in `rope`.
    """
    _, plain, latent = key_up.shape
    out[..., :latent] = torch.bmm(q[..., :plain].transpose(0, 1), key_up).transpose(0, 1)
    out[..., latent:] = q[..., plain:]
    turn(out[..., latent:], positions, cos, sin, interleaved)


@Op
def store_latent(
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
    """Normalises the compressed part (root mean square), turns the rest, and writes both into their slots.

    Args:
        compressed: [T, C + R].
        weight: [C], of the norm.
        eps: Added to the mean square.
        positions: [T] int64, each in the tables.
        cos: [positions, R/2], float32 as a rule.
        sin: [positions, R/2].
        slots: [T] int64; slot = block · B + offset of the token in its block, all different.
        pages: [N, 1, 1, B, C + R], updated.
        interleaved: Whether pairs of dimensions are neighbours, as in `rope`.
    """
    latent = len(weight)
    wide = compressed[:, :latent].float()
    scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    rows = compressed.clone()
    rows[:, :latent] = wide * scale * weight
    turn(rows[:, None, latent:], positions, cos, sin, interleaved)
    pages.view(-1, pages.shape[-1])[slots] = rows


@Op
def latent_attention(q: Tensor, pages: Tensor, batch: AttentionBatch, scale: float, out: Tensor) -> None:
    """Causal attention of new tokens to everything their sequence has in the cache; values stay compressed.

    The vectors of this step must be stored already. Query i of n sees the first kv_length − n + i + 1 tokens.

    Args:
        q: [T, Hq, C + R].
        pages: [N, 1, 1, B, C + R].
        batch: Where each sequence's rows and pages are.
        scale: Factor of the scores.
        out: [T, Hq, C], not `q`.
    """
    for span in batch.spans(pages.shape[3], pages.device):
        rows = slice(span.start, span.stop)
        out[rows] = _attend(q[rows], pages, span, scale, out.shape[-1])


def _attend(q: Tensor, pages: Tensor, span: SequenceSpan, scale: float, latent: int) -> Tensor:
    seen = pages.index_select(0, span.blocks).flatten(0, 3)[: span.kv_length]
    scores = torch.einsum("qhd,kd->hqk", q.float(), seen.float()) * scale
    weights = (scores + span.mask(scores)).softmax(-1)
    return torch.einsum("hqk,kd->qhd", weights, seen[:, :latent].float())


@Op
def expand_value(weighted: Tensor, value_up: Tensor, out: Tensor) -> None:
    """Makes values of weighted compressed vectors, per head: out = value_up · weighted.

    Args:
        weighted: [T, Hq, C].
        value_up: [Hq, V, C].
        out: [T, Hq, V].
    """
    require_shape(out, weighted.shape[0], *value_up.shape[:2])
    out.copy_(torch.bmm(weighted.transpose(0, 1), value_up.transpose(1, 2)).transpose(0, 1))
