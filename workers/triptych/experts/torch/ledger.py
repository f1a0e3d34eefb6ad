"""What happens to experts, counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from triptych.experts.cache import Ensured
from triptych.experts.residency import Counts


@dataclass(slots=True)
class Ledger:
    """Sums since the beginning; see `Counts`.

    Attributes:
        layers: Of the model.
        uses: By layer and local expert: steps that asked for it, since `rebind`.
    """

    layers: int
    uses: list[list[int]]
    asked: int = 0
    demanded: int = 0
    hits: int = 0
    covered: int = 0
    misses: int = 0
    prefetched: int = 0
    used: int = 0
    wasted_bytes: int = 0
    failed_reads: int = 0

    def demand(self, layer: int, experts: Sequence[int], ensured: Ensured) -> None:
        """A layer has asked for experts."""
        self.asked += 1
        self.demanded += len(experts)
        self.hits += ensured.hits
        self.covered += ensured.covered
        self.misses += len(ensured.loads)
        for expert in experts:
            self.uses[layer][expert] += 1

    def counts(self, reads: int, read_bytes: int, stall_ns: int) -> Counts:
        """All of it, and what the file and the lane have counted."""
        return Counts(
            steps=self.asked // self.layers,
            demanded=self.demanded,
            hits=self.hits,
            covered=self.covered,
            misses=self.misses,
            prefetched=self.prefetched,
            used=self.used,
            wasted_bytes=self.wasted_bytes,
            reads=reads,
            read_bytes=read_bytes,
            stall_ns=stall_ns,
            failed_reads=self.failed_reads,
        )
