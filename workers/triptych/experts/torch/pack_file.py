"""The packed file as threads read it: verified at every read, opened anew when it was mended."""

import os
import threading
import weakref
from typing import NamedTuple

from torch import Tensor

from triptych.core.errors import DataLoss, Unavailable
from triptych.experts.store import Mend, PackedStore, expand
from triptych.experts.store.direct import DirectFile, open_direct, pages
from triptych.experts.store.writing import sums_of


class ReadCounts(NamedTuple):
    """Blobs that have been read, and were what had been written; `nbytes` of all of them."""

    reads: int = 0
    nbytes: int = 0


class PackFile:
    """An open packed file. Threads may read at the same time, and while it is mended.

    Args:
        store: What is in it.
        mend: Puts right what is not.

    Attributes:
        counts: Of reads so far, as of one moment.

    Raises:
        Unavailable: it cannot be opened.
    """

    def __init__(self, store: PackedStore, mend: Mend) -> None:
        self._mend = mend
        self.counts = ReadCounts()
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._opened = _Opened(store)

    def nbytes(self, layer: int, *, rounded: bool) -> int:
        """That are read of an expert."""
        return _form(self._opened, rounded=rounded).store.layers[layer].layout.nbytes

    def read(self, layer: int, expert: int, into: Tensor, *, rounded: bool = False) -> None:
        """Reads a blob.

        Args:
            layer: Of the file.
            expert: By its number in it.
            into: At least the blob's bytes, uint8 on memory that begins with a page.
            rounded: Of the rounded experts.

        Raises:
            DataLoss: it is not what was written.
            Unavailable: it cannot be read, or not all of it.
        """
        self._fill(_form(self._opened, rounded=rounded), layer, expert, into)

    def read_expanded(self, layer: int, expert: int, into: Tensor) -> None:
        """Reads a rounded blob, and writes the exact one that it stands for. Arguments and errors: see `read`."""
        opened = self._opened
        coarse, exact = (_form(opened, rounded=rounded).store.layers[layer].layout for rounded in (True, False))
        scratch = pages(coarse.nbytes)
        self._fill(_form(opened, rounded=True), layer, expert, scratch)
        expand(coarse.view(scratch), exact, into[: exact.nbytes])

    def _fill(self, opened: "_Opened", layer: int, expert: int, into: Tensor) -> None:
        store = opened.store
        blob = into[: store.layers[layer].layout.nbytes]
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
            reads, nbytes = self.counts
            self.counts = ReadCounts(reads + 1, nbytes + len(blob))  # at once: others look at it without the lock

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


def _form(opened: _Opened, *, rounded: bool) -> _Opened:
    """The exact experts, or the rounded ones."""
    if not rounded:
        return opened
    assert opened.rounded is not None, "experts are rounded where the store says so"
    return opened.rounded
