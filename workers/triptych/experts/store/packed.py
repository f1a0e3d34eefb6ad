"""A packed file of experts, as its index describes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from triptych.experts.blob import PAGE, BlobLayout

PIECE = 1 << 20
"""Bytes of a section that are read and verified for themselves; the last ones of a section may be fewer."""

Checksums = tuple[int, ...]
"""XXH3 of 64 bits, seed 0, of the pieces of a blob's first section and then of its second, padding included."""


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """The experts of one layer: blobs one after the other, in the order of their numbers.

    Attributes:
        layout: Of each blob.
        offset: Of the first blob in the file, in bytes; pages.
        experts: E.
        piece: Bytes of a section's pieces, pages.
    """

    layout: BlobLayout
    offset: int
    experts: int
    piece: int

    @property
    def nbytes(self) -> int:
        """Of all its blobs."""
        return self.layout.nbytes * self.experts

    @property
    def pieces(self) -> tuple[range, ...]:
        """The bytes of a blob that have a checksum each."""
        sections, piece = (range(self.layout.first), range(self.layout.first, self.layout.nbytes)), self.piece
        return tuple(section[at : at + piece] for section in sections for at in range(0, len(section), piece))


@dataclass(frozen=True)
class PackedStore:
    """Where every expert of a model lies, or the slices of them that one rank computes.

    Says what the file held when it was opened. Whoever reads it verifies a blob by its checksums, and has it mended
    where they differ.

    Attributes:
        path: The file.
        layers: Those of the model that have experts, in its order.
        sums: Checksums of every blob by layer and expert.
        rounded: The same experts rounded, in a file of their own; None where nobody may read those.
    """

    path: Path
    layers: tuple[PackedLayer, ...]
    sums: tuple[tuple[Checksums, ...], ...]
    rounded: "PackedStore | None" = None

    def offset(self, layer: int, expert: int) -> int:
        """Where a blob begins in the file: its first section, and `layout.first` bytes on its second."""
        return self.layers[layer].offset + expert * self.layers[layer].layout.nbytes

    def checksums(self, layer: int, expert: int) -> Checksums:
        """Of a blob's pieces."""
        return self.sums[layer][expert]

    @cached_property
    def blob_bytes(self) -> int:
        """Of the largest blob: a slot that takes any expert."""
        return max((layer.layout.nbytes for layer in self.layers), default=0)

    @cached_property
    def nbytes(self) -> int:
        """Of all blobs."""
        return sum(layer.nbytes for layer in self.layers)


def place(layers: Sequence[tuple[BlobLayout, int]], piece: int = PIECE) -> tuple[PackedLayer, ...]:
    """Layers one after the other, behind the header."""
    placed: list[PackedLayer] = []
    end = PAGE
    for layout, experts in layers:
        placed.append(PackedLayer(layout, end, experts, piece))
        end += placed[-1].nbytes
    return tuple(placed)
