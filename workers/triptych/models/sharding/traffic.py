"""What a step sends between ranks: the formula of docs/parallelism.md. Pure; tests hold counted bytes against it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from triptych.models.payload import Packing, aligned
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, MoeSpec
from triptych.parallel import Parallelism
from triptych.parallel.traffic import sent_by_all_reduce

_COUNTS = 16
"""Bytes that one rank tells another of what will come: two int64."""
_LIKELIEST = 16
"""Bytes of a row's best score and its token: two float64."""
_SQUARES = 8
"""Bytes of a row's sums of squares of queries and keys: two float32."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes that one rank puts on the wire, by the group that they go to."""

    tensor: int = 0
    expert: int = 0
    attention: int = 0

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(self.tensor + other.tensor, self.expert + other.expert, self.attention + other.attention)


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a layer's router has sent rows.

    Attributes:
        records: Rows that this rank has sent to others: once to each rank that has any of a row's experts.
        results: What it has computed for rows of other ranks: one for each expert of a row.
    """

    records: int
    results: int


@dataclass(frozen=True, slots=True)
class RankStep:
    """A step as one rank sees it.

    Attributes:
        spec: Of the whole model.
        dtype: Of activations.
        parallelism: Of the replica.
        rank: Whose bytes are asked for.
        rows: Of its lane.
    """

    spec: DecoderSpec
    dtype: torch.dtype
    parallelism: Parallelism
    rank: int
    rows: int

    def embedding(self) -> Sent:
        """The rows of the token table, of which all ranks but one have zeros."""
        return self._summed_by_lane(self._row_bytes)

    def attention(self, layer: AttentionSpec | LatentAttentionSpec) -> Sent:
        """The sum behind a layer's attention; norms over whole projections add their squares up before."""
        whole_norms = isinstance(layer, AttentionSpec) and layer.qk_norm == "projection"
        return self._summed_by_lane(self._row_bytes) + self._summed_by_lane(_SQUARES if whole_norms else 0)

    def experts(self, layer: MoeSpec, routed: Routed) -> Sent:
        """Rows to the ranks of their experts, results back, and the sums behind that."""
        packed = Packing(self.parallelism.payload, self.dtype, self.spec.hidden_size).nbytes
        record = aligned(4 * layer.top_k) + packed
        others = self.parallelism.expert - 1
        there_and_back = _COUNTS * others + routed.records * record + routed.results * packed
        return Sent(expert=there_and_back) + self._experts_sum(layer)

    def head(self, scored: int) -> Sent:
        """The likeliest token of so many rows."""
        others = self.parallelism.attention_size - 1
        return Sent(attention=_LIKELIEST * scored * others)

    def total(self, scored: int, routed: Sequence[Routed] = ()) -> Sent:
        """The whole step; `routed` has an entry for each layer whose experts are divided, in their order."""
        sent = self.embedding() + self.head(scored)
        divided = iter(routed)
        for layer in self.spec.layers:
            sent += self.attention(layer.attention)
            if isinstance(layer.mlp, MoeSpec) and self.parallelism.expert > 1:
                sent += self.experts(layer.mlp, next(divided))
            else:
                sent += self._summed_by_lane(self._row_bytes)
        return sent

    @property
    def _row_bytes(self) -> int:
        return self.spec.hidden_size * self.dtype.itemsize

    def _summed_by_lane(self, row_bytes: int) -> Sent:
        return Sent(attention=sent_by_all_reduce(self.rows * row_bytes, self.parallelism.attention_size))

    def _experts_sum(self, layer: MoeSpec) -> Sent:
        parallelism = self.parallelism
        if parallelism.attention == "data":
            return Sent(tensor=sent_by_all_reduce(self.rows * self._row_bytes, parallelism.tensor))
        if layer.shared is not None:
            return self._summed_by_lane(self._row_bytes)
        most = -(-self.rows // parallelism.expert)
        own = min(most, max(0, self.rows - parallelism.position(self.rank).expert * most))
        return Sent(
            tensor=sent_by_all_reduce(own * self._row_bytes, parallelism.tensor),
            expert=most * self._row_bytes * (parallelism.expert - 1),
        )
