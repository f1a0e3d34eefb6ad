"""Logit penalties and the filters that narrow the choice of a token; each works on one row."""

import torch
from torch import Tensor

from triptych.core.sampling import SamplingParams


def penalise(logits: Tensor, params: SamplingParams, token_ids: list[int], prompt_length: int) -> None:
    """Applies repetition (prompt and answer), presence and frequency (answer only) penalties in place.

    Args:
        logits: [vocabulary] float32.
        params: The three penalties.
        token_ids: Prompt and answer so far.
        prompt_length: How many of them are the prompt.
    """
    if params.repetition_penalty != 1.0:
        # A token that is there several times gets the same value several times.
        seen = torch.tensor(token_ids, dtype=torch.int64, device=logits.device)
        values = logits[seen]
        scaled = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits[seen] = scaled.clamp(max=torch.finfo(logits.dtype).max)  # a tiny penalty overflows
    if params.presence_penalty or params.frequency_penalty:
        answer = torch.tensor(token_ids[prompt_length:], dtype=torch.int64, device=logits.device)
        ids, times = torch.unique(answer, return_counts=True)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * times


def keep_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits (all for k = 0), largest first, and their token ids."""
    if 0 < k < logits.shape[-1]:
        values, ids = logits.topk(k)
        return values, ids
    values, ids = logits.sort(descending=True, stable=True)
    return values, ids


def keep_top_p(probabilities: Tensor, p: float) -> Tensor:
    """The shortest head of descending probabilities whose sum reaches p (nucleus sampling, arXiv:1904.09751)."""
    if p >= 1.0:
        return probabilities
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    return probabilities[: max(1, int((mass_before < p).sum()))]


def keep_min_p(probabilities: Tensor, share: float) -> Tensor:
    """The head of descending probabilities that reach `share` of the first (arXiv:2407.01082)."""
    if share <= 0.0:
        return probabilities
    return probabilities[: max(1, int((probabilities >= share * probabilities[0]).sum()))]
