"""Writing a packed file: one expert after the other, whatever their number."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash
from torch import Tensor

from triptych.core.errors import Unimplemented
from triptych.experts.blob import BlobLayout, Expert
from triptych.experts.store.direct import DirectFile, allocate, open_direct, pages
from triptych.experts.store.header import blobs_end, encode, index_bytes
from triptych.experts.store.packed import PIECE, Checksums, PackedLayer, PackedStore, place

_CHUNK = 8 << 20
"""Bytes written at a time: small blobs go together."""

Read = Callable[[int, int], Expert]
"""Gives an expert by layer and number, as a view of memory or of its own."""


def write_pack(
    path: Path,
    layers: Sequence[tuple[BlobLayout, int]],
    read: Read,
    let_go: Callable[[int, int], None] = lambda layer, expert: None,
    advance: Callable[[int], None] = lambda count: None,
    piece: int = PIECE,
) -> PackedStore:
    """Writes a file of all experts of some layers. Holds two or three of them, and a few MiB, at a time.

    Args:
        path: To be made; not whole before this returns.
        layers: Layout and number of experts of each.
        read: Called once for each expert, in order, and for one ahead of the one that is written.
        let_go: Called with layer and number of an expert that is written, and will not be looked at again; in a
            thread of its own, as is the next one.
        advance: Told of bytes as they are written.
        piece: Bytes that get a checksum each; pages.

    Raises:
        Unimplemented: an expert is laid out unlike the others of its layer.
        OSError: the disk is full, or does not write.
    """
    placed = place(layers, piece)
    experts = _one_ahead(placed, read)
    with (
        open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file,
        ThreadPoolExecutor(1, "pack") as thread,
    ):
        allocate(file, blobs_end(placed) + index_bytes(placed))
        output = _Output(file, let_go, advance, thread)
        sums = tuple(output.write(layer, experts) for layer in placed)
        header, index = encode(placed, sums)
        _write_bytes(file, index, header.start)
        _write_bytes(file, header.encode(), 0)  # last: without it the file is no pack
        file.sync()
    return PackedStore(path, placed, sums)


def file_bytes(layers: Sequence[tuple[BlobLayout, int]]) -> int:
    """Of the file that `write_pack` makes."""
    placed = place(layers)
    return blobs_end(placed) + index_bytes(placed)


def xxh3(piece: Tensor) -> int:
    """The checksum of bytes [n] uint8 in memory."""
    number: int = xxhash.xxh3_64_intdigest(piece.numpy().data)
    return number


def sums_of(layer: PackedLayer, blob: Tensor) -> Checksums:
    """Of the pieces of a blob [nbytes] uint8."""
    return tuple(xxh3(blob[piece.start : piece.stop]) for piece in layer.pieces)


def pack_blob(layer: PackedLayer, expert: Expert, blob: Tensor, what: str) -> Checksums:
    """Writes an expert into blob [nbytes] uint8.

    Raises:
        Unimplemented: it is laid out otherwise; `what` names it.
    """
    if BlobLayout.of(expert) != layer.layout:
        raise Unimplemented(f"{what} has matrices of another form or shape than the first expert of its layer")
    layer.layout.pack(expert, blob)
    return sums_of(layer, blob)


@dataclass(frozen=True, slots=True)
class _Asked:
    """An expert that has been asked for, and by which numbers."""

    layer: int
    number: int
    expert: Expert


def _one_ahead(layers: Sequence[PackedLayer], read: Read) -> Iterator[_Asked]:
    """All experts. Whoever is next has been asked for, and comes from the disk while this one is packed."""
    numbers = ((layer, number) for layer, packed in enumerate(layers) for number in range(packed.experts))
    asked = (_Asked(layer, number, read(layer, number)) for layer, number in numbers)
    current = next(asked, None)
    while current is not None:
        following = next(asked, None)
        yield current
        current = following


@dataclass(frozen=True, slots=True)
class _Output:
    """A file that is written to while the next blobs are packed."""

    file: DirectFile
    let_go: Callable[[int, int], None]
    advance: Callable[[int], None]
    thread: ThreadPoolExecutor

    def write(self, layer: PackedLayer, experts: Iterator[_Asked]) -> tuple[Checksums, ...]:
        """Packs and writes all experts of a layer."""
        size = layer.layout.nbytes
        most = max(1, min(_CHUNK // size, layer.experts))
        chunks, sums = (pages(most * size), pages(most * size)), list[Checksums]()
        written: Future[None] | None = None
        for turn, start in enumerate(range(0, layer.experts, most)):
            blobs, packed = chunks[turn % 2][: min(most, layer.experts - start) * size], list[tuple[int, int]]()
            for blob, asked in zip(blobs.view(-1, size).unbind(0), experts, strict=False):
                what = f"expert {asked.number} of mixture {asked.layer}"
                sums.append(pack_blob(layer, asked.expert, blob, what))
                packed.append((asked.layer, asked.number))
            if written is not None:
                written.result()
            written = self.thread.submit(self._finish, blobs, layer.offset + start * size, packed)
        if written is not None:
            written.result()
        return tuple(sums)

    def _finish(self, blobs: Tensor, offset: int, packed: list[tuple[int, int]]) -> None:
        self.file.write(blobs, offset)
        for layer, expert in packed:
            self.let_go(layer, expert)
        self.advance(len(blobs))


def _write_bytes(file: DirectFile, data: bytes, offset: int) -> None:
    memory = pages(len(data))
    memory.numpy()[:] = memoryview(data)
    file.write(memory, offset)
