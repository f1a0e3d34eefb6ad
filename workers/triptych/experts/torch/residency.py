"""Experts in slots, kept by Python: on a CPU without a compiler, and on accelerators."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from triptych.experts.cache import ExpertCache, Load, Scores
from triptych.experts.pool import Pool
from triptych.experts.residency import Counts
from triptych.experts.steerable import Asked
from triptych.experts.store import PackedStore
from triptych.experts.torch import ops
from triptych.experts.torch.candidates import candidates
from triptych.experts.torch.filling import Filling
from triptych.experts.torch.lane import Lane
from triptych.experts.torch.ledger import Ledger
from triptych.experts.torch.pack_file import PackFile
from triptych.experts.torch.tables import LayerTables
from triptych.kernels import Experts


class TorchResidency:
    """See `Residency` and `Steerable`.

    Args:
        store: The packed file.
        file: It, open.
        lane: Fills slots from it.
        pool: The slots.
        scores: Of each layer's experts.
        experts: By layer: their numbers in the packed file.
    """

    recordable = False

    def __init__(
        self,
        store: PackedStore,
        file: PackFile,
        lane: Lane,
        pool: Pool,
        scores: Sequence[Scores],
        experts: Sequence[tuple[int, ...]],
    ) -> None:
        self._store = store
        self._file = file
        self._lane = lane
        self._pool = pool
        self._numbers = list(experts)
        self._cache = ExpertCache(pool.slots, pool.quotas, scores)
        self._tables = [
            LayerTables(packed.layout, len(numbers), lane.memory)
            for packed, numbers in zip(store.layers, experts, strict=True)
        ]
        self._ledger = Ledger(len(experts), [[0] * len(numbers) for numbers in experts])
        self._filling = Filling(self._cache, lane, self._ledger)
        self._speculating = True
        self._trace: list[Asked] | None = None

    @property
    def layers(self) -> int:
        """See `Residency.layers`."""
        return len(self._tables)

    @property
    def nbytes(self) -> int:
        """See `Residency.nbytes`."""
        return self._pool.nbytes

    @property
    def counts(self) -> Counts:
        """See `Residency.counts`."""
        return self._ledger.counts(*self._file.counts, self._lane.stall_ns)

    def experts(self, layer: int) -> Experts:
        """See `Residency.experts`."""
        return self._lane.experts(layer, self._tables[layer].experts)

    def ensure(self, layer: int, ids: Tensor) -> None:
        """See `Residency.ensure`."""
        ops.ensure(ids, self, layer)

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        """See `Residency.prefetch`."""
        ops.prefetch(scores, self, layer, top)

    def demand(self, layer: int, ids: Tensor) -> None:
        """What `ensure` does when it is not recorded."""
        ids = ids.cpu()
        wanted = sorted({expert for expert in ids.flatten().tolist() if expert >= 0})
        if self._trace is not None:
            self._trace.append(Asked(layer, ids.clone()))
        self._filling.note_arrivals()
        self._filling.reach(layer, set(wanted))
        self._filling.make_room(layer, set(wanted))
        ensured = self._cache.ensure(layer, wanted)
        self._start(ensured.loads)
        slots = dict(zip(wanted, ensured.slots, strict=True))
        self._filling.decline(self._lane.demand(layer, ids, slots, self._cache.kept[layer].keys()))
        self._filling.note_arrivals()
        self._ledger.demand(layer, wanted, ensured)

    def speculate_on(self, layer: int, scores: Tensor, top: int) -> None:
        """What `prefetch` does when it is not recorded."""
        if self._speculating and self._pool.speculative:
            self._filling.note_arrivals()
            self._start(self._cache.prefetch(layer, candidates(scores.cpu(), top), self._pool.speculative))

    def warm(self, pairs: Iterable[tuple[int, int]]) -> None:
        """See `Steerable.warm`."""
        self._start([load for layer, expert in pairs if (load := self._cache.warm(layer, expert)) is not None])

    def speculate(self, on: bool) -> None:
        """See `Steerable.speculate`."""
        self._speculating = on

    def uses(self, layer: int) -> Sequence[int]:
        """See `Steerable.uses`."""
        return self._ledger.uses[layer]

    def trace(self, on: bool) -> None:
        """See `Steerable.trace`."""
        self._trace = [] if on else None

    def drain(self) -> list[Asked]:
        """See `Steerable.drain`."""
        asked, self._trace = self._trace or [], None if self._trace is None else []
        return asked

    def check(self) -> None:
        """See `Residency.check`."""
        failures = self._filling.failures()
        for failure in failures:
            self._file.mend(failure.load.layer, self._numbers[failure.load.layer][failure.load.expert])
        if failures:
            raise failures[0].error

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        """See `Residency.rebind`; as many as before. Scores go with the experts; who comes is worth nothing yet.

        Nothing is read before somebody asks for it.
        """
        before, scores = self._numbers[layer], self._cache.scores[layer]
        self._filling.forget(layer, [place for place, number in enumerate(experts) if number != before[place]])
        values = {number: scores.of(expert) for expert, number in enumerate(before)}
        scores.values = [values.get(number, 0.0) for number in experts]
        self._numbers[layer] = experts
        self._ledger.uses[layer] = [0] * len(experts)

    def close(self) -> None:
        """See `Residency.close`."""
        self._lane.close()

    def _start(self, loads: Sequence[Load]) -> None:
        for load in loads:
            self._tables[load.layer].place(load.expert, load.slot)
            number = self._numbers[load.layer][load.expert]
            rounded = self._may_be_rounded(load)
            nbytes = self._file.nbytes(load.layer, rounded=rounded)
            self._filling.start(load, number, nbytes, rounded=rounded)

    def _may_be_rounded(self, load: Load) -> bool:
        if self._store.rounded is None or load.cause == "warm":
            return False
        return not self._cache.worth_keeping(load.layer, load.expert)
