"""Penalties on the logits of tokens that were there before."""

import torch
from torch import Tensor

from triptych.engine.sampling import Sampling


def penalise(logits: Tensor, params: Sampling, token_ids: list[int], prompt_length: int) -> None:
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
