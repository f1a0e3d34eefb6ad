"""Reading single blobs of a packed file, verified; steps read by `triptych.experts.native` or `.torch`."""

import os
from collections.abc import Callable, Iterator

from torch import Tensor

from triptych.core.errors import DataLoss
from triptych.experts.store.direct import DirectFile, open_direct, pages
from triptych.experts.store.packed import PackedStore
from triptych.experts.store.writing import sums_of


def read_blob(store: PackedStore, layer: int, expert: int) -> Tensor:
    """A blob [nbytes] uint8, on memory that begins with a page.

    Raises:
        DataLoss: the file is gone, cut short, or does not hold what was written.
    """
    blob = pages(store.layers[layer].layout.nbytes)
    try:
        with open_direct(store.path, os.O_RDONLY) as file:
            _fill(store, file, layer, expert, blob)
    except OSError as error:
        raise DataLoss(f"{_name(store, layer, expert)} cannot be read: {error.strerror}") from error
    return blob


def faults(store: PackedStore, advance: Callable[[int], None] = lambda _: None) -> Iterator[tuple[int, int]]:
    """Layer and number of every expert whose blob is not what was written; reads the whole file.

    Args:
        store: The file.
        advance: Told of bytes as they are read.

    Raises:
        OSError: the file is gone.
    """
    with open_direct(store.path, os.O_RDONLY) as file:
        for number, layer in enumerate(store.layers):
            blob = pages(layer.layout.nbytes)
            for expert in range(layer.experts):
                try:
                    _fill(store, file, number, expert, blob)
                except (DataLoss, OSError):
                    yield number, expert
                advance(len(blob))


def _fill(store: PackedStore, file: DirectFile, layer: int, expert: int, blob: Tensor) -> None:
    read = file.read(blob, store.offset(layer, expert))
    if read < len(blob):
        raise DataLoss(f"{_name(store, layer, expert)} is cut short: {read:,} of {len(blob):,} bytes are there")
    sums = zip(sums_of(store.layers[layer], blob), store.checksums(layer, expert), strict=True)
    for number, (found, written) in enumerate(sums):
        if found != written:
            raise DataLoss(
                f"{_name(store, layer, expert)} is damaged: its piece {number} has the checksum {found:016x}, "
                f"with {written:016x} it was written"
            )


def _name(store: PackedStore, layer: int, expert: int) -> str:
    return f"{store.path}: expert {expert} of mixture {layer}"
