"""Penalties on the logits of tokens that were there before."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from triptych.engine.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Seen:
    """Tokens that were there before.

    Attributes:
        token_ids: Each of them once.
        counts: How often each is in the answer; 0 for those of the prompt alone.
    """

    token_ids: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, token_ids: Sequence[int], prompt_length: int) -> Self:
        """Those of a prompt and its answer so far."""
        counts = dict.fromkeys(token_ids[:prompt_length], 0) | Counter(token_ids[prompt_length:])
        return cls(tuple(counts), tuple(counts.values()))

    def within(self, start: int, stop: int) -> Self:
        """Those of an interval of the vocabulary, counted from its start."""
        here = [(i - start, n) for i, n in zip(self.token_ids, self.counts, strict=True) if start <= i < stop]
        return type(self)(tuple(i for i, _ in here), tuple(n for _, n in here))


def penalise(logits: Tensor, params: Sampling, seen: Seen) -> None:
    """Applies repetition (prompt and answer), presence and frequency (answer only) penalties in place.

    Args:
        logits: [vocabulary] float32.
        params: The three penalties.
        seen: By places in `logits`.
    """
    ids = torch.tensor(seen.token_ids, dtype=torch.int64, device=logits.device)
    values = logits[ids]
    if params.repetition_penalty != 1.0:
        scaled = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        values = scaled.clamp(max=torch.finfo(logits.dtype).max)  # a tiny penalty overflows
    if params.presence_penalty or params.frequency_penalty:
        times = torch.tensor(seen.counts, device=logits.device)
        values -= torch.where(times > 0, params.presence_penalty + params.frequency_penalty * times, 0.0)
    logits[ids] = values
