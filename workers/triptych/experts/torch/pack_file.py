"""The packed file as threads read it: verified at every read, opened anew when it was mended."""

import os
import threading
import weakref

from torch import Tensor

from triptych.core.errors import DataLoss, Unavailable
from triptych.experts.store import Mend, PackedStore, expand
from triptych.experts.store.direct import DirectFile, open_direct, pages
from triptych.experts.store.writing import sums_of


class PackFile:
    """An open packed file. Threads may read at the same time, and while it is mended.

    Args:
        store: What is in it.
        mend: Puts right what is not.

    Attributes:
        reads: Blobs that have been read, and were what had been written.
        read_bytes: Of all of them.

    Raises:
        Unavailable: it cannot be opened.
    """

    def __init__(self, store: PackedStore, mend: Mend) -> None:
        self._mend = mend
        self.reads = 0
        self.read_bytes = 0
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._opened = _Opened(store)
        self._coarse: set[tuple[int, int]] = set()

    def choose(self, layer: int, expert: int, *, rounded: bool) -> int:
        """Whether an expert is read rounded from now on, where the store has it so; the bytes that are read."""
        store = self._opened.store
        if rounded and store.rounded is not None:
            self._coarse.add((layer, expert))
            return store.rounded.layers[layer].layout.nbytes
        self._coarse.discard((layer, expert))
        return store.layers[layer].layout.nbytes

    def read(self, layer: int, expert: int, into: Tensor) -> None:
        """Reads a blob, or what its rounded one stands for.

        Args:
            layer: Of the file.
            expert: By its number in it.
            into: At least the blob's bytes, uint8 on memory that begins with a page.

        Raises:
            DataLoss: it is not what was written.
            Unavailable: it cannot be read, or not all of it.
        """
        opened = self._opened
        layout = opened.store.layers[layer].layout
        blob = into[: layout.nbytes]
        if opened.rounded is None or (layer, expert) not in self._coarse:
            self._fill(opened, layer, expert, blob)
            return
        coarse = opened.rounded.store.layers[layer].layout
        scratch = pages(coarse.nbytes)
        self._fill(opened.rounded, layer, expert, scratch)
        expand(coarse.view(scratch), layout, blob)

    def _fill(self, opened: "_Opened", layer: int, expert: int, blob: Tensor) -> None:
        store = opened.store
        name = f"{store.path}: expert {expert} of mixture {layer}"
        try:
            count = opened.file.read(blob, store.offset(layer, expert))
        except OSError as error:
            raise Unavailable(f"{name} cannot be read: {error.strerror}") from error
        if count < len(blob):
            raise Unavailable(f"{name} is cut short: {count:,} of {len(blob):,} bytes are there")
        if sums_of(store.layers[layer], blob) != store.checksums(layer, expert):
            raise DataLoss(f"{name} is damaged: its checksums are not those that were written")
        with self._counting:
            self.reads += 1
            self.read_bytes += len(blob)

    def mend(self, layer: int, expert: int) -> None:
        """Has an expert written again that could not be read.

        Raises:
            DataLoss: there is nothing that it can be written from.
            ResourceExhausted: the disk is full.
            Unavailable: the file cannot be opened after that.
        """
        with self._lock:
            self._opened = _Opened(self._mend(layer, expert))


class _Opened:
    """Closes when nobody reads it any more."""

    def __init__(self, store: PackedStore) -> None:
        context = open_direct(store.path, os.O_RDONLY)
        try:
            self.file: DirectFile = context.__enter__()
        except OSError as error:
            raise Unavailable(f"{store.path} cannot be opened: {error.strerror}") from error
        self.store = store
        self.rounded = None if store.rounded is None else _Opened(store.rounded)
        weakref.finalize(self, context.__exit__, None, None, None)
