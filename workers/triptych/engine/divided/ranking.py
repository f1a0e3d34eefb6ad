"""The order in which filters take tokens, as numbers: by falling logit, of equal ones the first token first."""

import torch
from torch import Tensor

_ALL_BITS = 0xFFFFFFFF
NOBODY = -(2**63)
"""A key below that of any token."""


def ordered(logits: Tensor) -> Tensor:
    """Float32 as int64 in [0, 2^32) that compare alike; 0 and -0 are equal, NaN is the largest."""
    patterns = (logits + 0.0).view(torch.int32)
    signed = patterns ^ ((patterns >> 31) & 0x7FFFFFFF)
    return signed.masked_fill_(logits.isnan(), 0x7FFFFFFF).long() + 2**31


def logit_of(numbers: Tensor) -> Tensor:
    """The float32 that an `ordered` number stands for."""
    signed = (numbers - 2**31).to(torch.int32)
    return (signed ^ ((signed >> 31) & 0x7FFFFFFF)).view(torch.float32)


def keys(logits: Tensor, start: int) -> Tensor:
    """Int64 [R, V_local] that rise as tokens come earlier in the order; no two tokens have the same."""
    tokens = torch.arange(start, start + logits.shape[1], device=logits.device)
    return (ordered(logits) - 2**31 << 32) + (_ALL_BITS - tokens)


def split(some: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and token ids of keys."""
    return logit_of((some >> 32) + 2**31), _ALL_BITS - (some & _ALL_BITS)


def first(some: Tensor, count: int) -> Tensor:
    """The largest `count` of the keys [R, N], falling; `NOBODY` where there are no more."""
    best = some.topk(min(count, some.shape[1]), dim=1).values
    return torch.nn.functional.pad(best, (0, count - best.shape[1]), value=NOBODY)


def merged(gathered: Tensor, count: int) -> Tensor:
    """The first `count` of all ranks' keys [ranks, R, N]."""
    return first(gathered.transpose(0, 1).flatten(1), count)
