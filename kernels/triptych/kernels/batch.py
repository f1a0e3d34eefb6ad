"""What attention must know about a step: which rows belong to which sequence, and where its tokens lie."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor


@dataclass(slots=True)
class SequenceSpan:
    """One sequence of a batch, as plain numbers.

    Attributes:
        start: First query row.
        stop: One past the last query row.
        kv_length: Tokens in the cache, this step's included.
        blocks: [ceil(kv_length / B)] int64, the pages that hold them, on the device of the cache.
        images: First token and the one after the last of each image whose tokens see each other.
    """

    start: int
    stop: int
    kv_length: int
    blocks: Tensor
    images: tuple[tuple[int, int], ...] = ()
    _masks: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def mask(self, like: Tensor, window: int = 0) -> Tensor:
        """[queries, kv_length] of the type of `like`: 0 where a query may look, −inf elsewhere.

        Later tokens are hidden unless they are of the query's own image, and with a window all but the last so many.
        Built once and kept, because every layer of a step asks for it.
        """
        if window not in self._masks:
            queries = self.stop - self.start
            past = self.kv_length - queries
            hidden = torch.full((queries, self.kv_length), -torch.inf, dtype=like.dtype, device=like.device)
            later = hidden.triu(past + 1)
            for first, stop in self.images:
                later[max(first - past, 0) : max(stop - past, 0), first:stop] = 0
            self._masks[window] = later + hidden.tril(past - window) if window else later
        return self._masks[window]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionBatch:
    """The sequences of one step; CPU tensors.

    Sequence s has the query rows query_start[s] … query_start[s+1] − 1. They are its newest tokens: the last of them
    is token kv_lengths[s] − 1. One row is a decode step, more are a chunk of a prompt.

    Attributes:
        query_start: [S + 1] int32, rising from 0 to the number of rows T.
        kv_lengths: [S] int32, tokens in the cache, this step's included.
        block_tables: [S, M] int32, pages in order of the tokens; entries past the length are not read.
        images: Sequence, first token and the one after the last of each image whose tokens see each other. All that
            the cache has not had before are among the step's.
    """

    query_start: Tensor
    kv_lengths: Tensor
    block_tables: Tensor
    images: tuple[tuple[int, int, int], ...] = ()
    _spans: dict[tuple[int, torch.device], tuple[SequenceSpan, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    def spans(self, block_size: int, device: torch.device) -> tuple[SequenceSpan, ...]:
        """The same as numbers and index tensors on `device`; built by the first layer that asks, then kept."""
        key = (block_size, device)
        if key not in self._spans:
            bounds = cast("list[int]", self.query_start.tolist())
            lengths = cast("list[int]", self.kv_lengths.tolist())
            tables = self.block_tables.to(device=device, dtype=torch.int64)
            self._spans[key] = tuple(
                SequenceSpan(start, stop, length, table[: -(-length // block_size)], self._images(place))
                for place, ((start, stop), length, table) in enumerate(
                    zip(pairwise(bounds), lengths, tables, strict=True)
                )
            )
        return self._spans[key]

    def _images(self, place: int) -> tuple[tuple[int, int], ...]:
        return tuple((first, stop) for sequence, first, stop in self.images if sequence == place)
