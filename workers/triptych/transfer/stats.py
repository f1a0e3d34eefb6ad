"""What a transfer cost, in counts that tests can assert."""

import dataclasses
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransferCounts:
    """Totals of one sender, receiver or store.

    Attributes:
        chunks: Chunks or embeddings that arrived whole.
        bytes: Their bytes.
        copies: Copies between shared memories: one per piece that is contiguous on both sides, all layers at once.
        messages: Vectored system calls that carried payload.
        mismatches: Copies whose checksum was wrong.
        reconnects: Connections that were lost and opened again.
    """

    chunks: int = 0
    bytes: int = 0
    copies: int = 0
    messages: int = 0
    mismatches: int = 0
    reconnects: int = 0

    def __add__(self, other: "TransferCounts") -> "TransferCounts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return TransferCounts(*(mine + theirs for mine, theirs in pairs))


class TransferStats:
    """A running total that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = TransferCounts()

    def add(self, counts: TransferCounts) -> None:
        """Adds to the total."""
        with self._lock:
            self._counts += counts

    @property
    def counts(self) -> TransferCounts:
        """The total so far."""
        return self._counts
