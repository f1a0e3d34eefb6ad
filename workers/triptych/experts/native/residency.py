"""Experts in slots, kept by compiled code: decisions and waiting cost a step no Python."""

import os
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from triptych.core.errors import DataLoss, TriptychError, Unavailable
from triptych.experts.cache import Scores
from triptych.experts.native.layers import Blobs, in_waves, layer_experts, rounded_experts, tables
from triptych.experts.native.memory import open_file, slots
from triptych.experts.pool import Pool
from triptych.experts.residency import Counts
from triptych.experts.settings import OffloadSettings
from triptych.experts.steerable import Asked
from triptych.experts.store import Mend, PackedStore
from triptych.kernels import Experts
from triptych.kernels.expert_slots import WAITED_PLACES, Waves
from triptych.kernels.native.residency import ResidencyPool
from triptych.kernels.native.residency_args import FailedOut

_SPLIT = 1 << 20
"""Bytes of a blob from which it is read in pieces: smaller ones cost a reader less at once."""


class NativeResidency:
    """See `Residency` and `Steerable`.

    Args:
        store: The packed file.
        mend: Puts right what it does not hold any more.
        settings: Say how many threads read.
        pool: The slots.
        scores: Of each layer's experts, taken over as they are.
        experts: By layer: their numbers in the packed file.

    Raises:
        NotAvailable: it cannot be compiled here.
        Unavailable: the packed file cannot be opened.
    """

    recordable = True

    def __init__(
        self,
        store: PackedStore,
        mend: Mend,
        settings: OffloadSettings,
        pool: Pool,
        scores: Sequence[Scores],
        experts: Sequence[tuple[int, ...]],
    ) -> None:
        self._store = store
        self._mend = mend
        self._numbers = list(experts)
        self._slots = pool
        memory = slots(pool.slots, pool.slot_bytes)
        waited = torch.zeros(WAITED_PLACES, dtype=torch.int64)
        self._experts = [
            tables(layer.layout, len(numbers), memory, waited)
            for layer, numbers in zip(store.layers, experts, strict=True)
        ]
        self._file = open_file(store.path)
        self._rounded = -1 if store.rounded is None else open_file(store.rounded.path)
        self._pool = ResidencyPool(
            memory,
            waited,
            [
                layer_experts(
                    layer.layout,
                    own,
                    Blobs.of(store, number, numbers),
                    quota,
                    of_layer,
                    rounded_experts(store, number, numbers),
                )
                for number, (layer, own, numbers, quota, of_layer) in enumerate(
                    zip(store.layers, self._experts, experts, pool.quotas, scores, strict=True)
                )
            ],
            self._file,
            settings.readers,
            _SPLIT,
            self._rounded,
        )
        self._waves = [Waves(self._pool.window, self._pool.wave) for _ in self._experts]
        self._experts = [in_waves(own, waves) for own, waves in zip(self._experts, self._waves, strict=True)]
        self._closed = Counts()
        self._close = weakref.finalize(self, _close, self._pool, self._file, self._rounded)
        self.speculate(True)

    @property
    def layers(self) -> int:
        """See `Residency.layers`."""
        return len(self._experts)

    @property
    def nbytes(self) -> int:
        """See `Residency.nbytes`."""
        return self._slots.nbytes

    @property
    def counts(self) -> Counts:
        """See `Residency.counts`; what they were at the end once it is closed."""
        return self._counts() if self._close.alive else self._closed

    def experts(self, layer: int) -> Experts:
        """See `Residency.experts`."""
        return self._experts[layer]

    def ensure(self, layer: int, ids: Tensor) -> None:
        """See `Residency.ensure`."""
        self._waves[layer].count = self._slots.waves(ids.numel(), len(self._numbers[layer]))
        self._pool.ensure(layer, ids)

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        """See `Residency.prefetch`."""
        self._pool.prefetch(layer, scores, top)

    def warm(self, pairs: Iterable[tuple[int, int]]) -> None:
        """See `Steerable.warm`."""
        for layer, expert in pairs:
            self._pool.warm(layer, expert)

    def speculate(self, on: bool) -> None:
        """See `Steerable.speculate`."""
        self._pool.allow(self._slots.speculative if on else 0)

    def uses(self, layer: int) -> Sequence[int]:
        """See `Steerable.uses`."""
        return self._pool.uses(layer)

    def trace(self, on: bool) -> None:
        """See `Steerable.trace`."""
        self._pool.trace(on=on)

    def drain(self) -> list[Asked]:
        """See `Steerable.drain`."""
        return [Asked(layer, ids) for layer, ids in self._pool.drain()]

    def settle(self) -> None:
        """Waits until everything is read that is queued."""
        self._pool.settle()

    def check(self) -> None:
        """See `Residency.check`."""
        if failed := self._pool.check():
            for each in failed:
                self._store = self._mend(each.layer, self._numbers[each.layer][each.expert])
            self._reopen()
            raise self._error(failed[0])

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        """See `Residency.rebind`; as many as before. Scores go with the experts; who comes is worth nothing yet."""
        blobs, rounded = Blobs.of(self._store, layer, experts), rounded_experts(self._store, layer, experts)
        before = {number: place for place, number in enumerate(self._numbers[layer])}
        places = [before.get(number, -1) for number in experts]
        self._pool.rebind(layer, blobs.offsets, blobs.checksums, places, rounded)
        self._numbers[layer] = experts

    def close(self) -> None:
        """See `Residency.close`."""
        if self._close.alive:
            self._closed = self._counts()
            self._close()

    def _counts(self) -> Counts:
        counts = self._pool.counts()
        return Counts(
            steps=counts.layers // self.layers,
            demanded=counts.demanded,
            hits=counts.hits,
            covered=counts.covered,
            misses=counts.misses,
            prefetched=counts.prefetched,
            used=counts.covered,
            wasted_bytes=counts.wasted_bytes,
            reads=counts.reads,
            read_bytes=counts.read_bytes,
            stall_ns=counts.stall_ns,
            failed_reads=counts.failed_reads,
        )

    def _reopen(self) -> None:
        """Descriptors are those of what is there now: a file may be another one under the same name."""
        _replace(self._file, self._store)
        if self._store.rounded is not None:
            _replace(self._rounded, self._store.rounded)

    def _error(self, failed: FailedOut) -> TriptychError:
        expert = self._numbers[failed.layer][failed.expert]
        which = f"{self._store.path}: expert {expert} of mixture {failed.layer}"
        if failed.failure == 1:
            return DataLoss(f"{which} was damaged; the step is to be repeated")
        return Unavailable(f"{which} could not be read; the step is to be repeated")


def _replace(old: int, store: PackedStore) -> None:
    file = open_file(store.path)
    try:
        os.dup2(file, old, inheritable=False)
    finally:
        os.close(file)


def _close(pool: ResidencyPool, *files: int) -> None:
    pool.close()
    for file in files:
        if file >= 0:
            os.close(file)
