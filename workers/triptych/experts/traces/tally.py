"""What has happened while a recording is replayed."""

from dataclasses import dataclass

from triptych.experts.residency import Counts


@dataclass(slots=True)
class Tally:
    """As `Counts`; `stall` in seconds."""

    steps: int = 0
    demanded: int = 0
    hits: int = 0
    covered: int = 0
    prefetched: int = 0
    reads: int = 0
    stall: float = 0.0

    def add(self, other: "Tally") -> None:
        """What happened besides."""
        self.steps += other.steps
        self.demanded += other.demanded
        self.hits += other.hits
        self.covered += other.covered
        self.prefetched += other.prefetched
        self.reads += other.reads
        self.stall += other.stall

    def counts(self, blob: int) -> Counts:
        """With experts of so many bytes."""
        return Counts(
            steps=self.steps,
            demanded=self.demanded,
            hits=self.hits,
            covered=self.covered,
            misses=self.demanded - self.hits - self.covered,
            prefetched=self.prefetched,
            used=self.covered,
            wasted_bytes=(self.prefetched - self.covered) * blob,
            reads=self.reads,
            read_bytes=self.reads * blob,
            stall_ns=round(self.stall * 1e9),
        )
