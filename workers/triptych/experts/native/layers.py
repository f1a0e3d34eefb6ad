"""The layers of a packed file as the compiled pool takes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from triptych.experts.blob import BlobLayout, MatrixParts
from triptych.experts.cache import DecayedUses, Fixed, LastUse, Scores
from triptych.experts.store import Checksums, PackedStore
from triptych.experts.torch.tables import LayerTables
from triptych.kernels import Arrivals, Experts
from triptych.kernels.expert_slots import Waves
from triptych.kernels.native.residency_layers import LayerExperts, LayerScores, RoundedExperts


@dataclass(frozen=True, slots=True)
class Blobs:
    """Where the experts of a layer are in the packed file, in the order of their tables."""

    offsets: tuple[int, ...]
    checksums: tuple[Checksums, ...]
    piece: int

    @classmethod
    def of(cls, store: PackedStore, layer: int, numbers: Sequence[int]) -> "Blobs":
        """Those with these numbers."""
        return cls(
            tuple(store.offset(layer, number) for number in numbers),
            tuple(store.checksums(layer, number) for number in numbers),
            store.layers[layer].piece,
        )


def tables(layout: BlobLayout, count: int, memory: Tensor, waited: Tensor) -> Experts:
    """A layer's experts in slots [N, B], none of which is there."""
    arrivals = Arrivals(torch.zeros(count, dtype=torch.int32), waited)
    return replace(LayerTables(layout, count, memory).experts, arrivals=arrivals)


def in_waves(experts: Experts, waves: Waves) -> Experts:
    """Experts that may take turns in their slots."""
    assert experts.arrivals is not None
    return replace(experts, arrivals=replace(experts.arrivals, waves=waves))


def layer_experts(
    layout: BlobLayout,
    experts: Experts,
    blobs: Blobs,
    quota: int,
    scores: Scores,
    rounded: RoundedExperts | None = None,
) -> LayerExperts:
    """A layer as the pool takes it."""
    assert experts.arrivals is not None
    return LayerExperts(
        first=layout.first,
        nbytes=layout.nbytes,
        parts=tuple(start for matrix in (layout.gate, layout.up, layout.down) for start in _starts(matrix)),
        tables=(experts.gate.addresses, experts.up.addresses, experts.down.addresses),
        flags=experts.arrivals.flags,
        offsets=blobs.offsets,
        checksums=blobs.checksums,
        piece=blobs.piece,
        quota=quota,
        scores=_scores(scores),
        rounded=rounded,
    )


def rounded_experts(store: PackedStore, layer: int, numbers: Sequence[int]) -> RoundedExperts | None:
    """Those with these numbers of a layer, where rounded ones may be read."""
    if store.rounded is None:
        return None
    exact, layout = store.layers[layer].layout, store.rounded.layers[layer].layout
    blobs = Blobs.of(store.rounded, layer, numbers)
    matrices = (layout.gate, layout.up, layout.down)
    dtypes = {part.dtype for parts in (exact.gate, exact.up, exact.down) for part in parts}
    assert dtypes in ({torch.float32}, {torch.bfloat16}), dtypes
    return RoundedExperts(
        first=layout.first,
        nbytes=layout.nbytes,
        parts=tuple(start for matrix in matrices for start in _starts(matrix)),
        shapes=tuple(size for matrix in (exact.gate, exact.up, exact.down) for size in matrix.values.shape),
        dtype=exact.gate.values.dtype,
        bits=4 if layout.gate.form == "Q4_0" else 8,
        offsets=blobs.offsets,
        checksums=blobs.checksums,
        piece=blobs.piece,
    )


def _starts(matrix: MatrixParts) -> tuple[int, ...]:
    return tuple(-1 if part is None else part.offset for part in (matrix.values, matrix.scales, matrix.bias))


def _scores(scores: Scores) -> LayerScores:
    match scores:
        case LastUse(values, steps):
            return LayerScores("last-use", values, steps=steps)
        case DecayedUses(values, decay, worth):
            return LayerScores("decayed-uses", values, decay=decay, worth=worth)
        case Fixed(values):
            return LayerScores("fixed", values)
        case _:
            raise TypeError(f"scores of no kind that the compiled pool has: {type(scores).__name__}")
