"""What a mixture asks of whoever keeps its experts in memory."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from triptych.kernels import Experts


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the beginning; of decode and prompt steps together.

    Attributes:
        steps: Layers that were asked for experts, over the number of layers.
        demanded: Experts that layers asked for, each once per step and layer.
        hits: Of those, there since an earlier step.
        covered: Of those, there or under way because they were read in advance.
        misses: The rest: reading began when they were asked for.
        prefetched: Experts read in advance.
        used: Of those, asked for by the step that they were read for.
        wasted_bytes: Read in advance and not asked for by that step. With an accelerator only what was read from the
            packed file on its behalf, and not what is given up before it is copied: the host's memory has that now.
        reads: Of experts, finished.
        read_bytes: Of all of them.
        stall_ns: Time that some thread of a step waited for an expert, per layer the longest of the threads.
        failed_reads: That did not give what was written.
        switched_off: Whether reading in advance has been given up because it did not pay.
        turns: Steps after which it was turned off, on, off and so on, be it for a trial.
    """

    steps: int = 0
    demanded: int = 0
    hits: int = 0
    covered: int = 0
    misses: int = 0
    prefetched: int = 0
    used: int = 0
    wasted_bytes: int = 0
    reads: int = 0
    read_bytes: int = 0
    stall_ns: int = 0
    failed_reads: int = 0
    switched_off: bool = False
    turns: tuple[int, ...] = ()

    @property
    def hit_ratio(self) -> float:
        """Share of the demand that no read of this step had to serve: hits and what was read in advance."""
        return (self.hits + self.covered) / self.demanded if self.demanded else 1.0

    @property
    def recall(self) -> float:
        """Share of what was not there that had been read in advance."""
        absent = self.covered + self.misses
        return self.covered / absent if absent else 1.0

    @property
    def precision(self) -> float:
        """Share of what was read in advance that was asked for."""
        return self.used / self.prefetched if self.prefetched else 1.0


class Residency(Protocol):
    """Keeps the experts of a rank in a pool of slots that not all of them fit. One thread computes with it.

    `ensure` and `prefetch` are ops: inside `triptych.kernels.native.team.capture` a native one records them. Layers
    are numbered as the model's that have experts, from 0; experts of a layer as the tables of `experts` have them.
    """

    @property
    def layers(self) -> int:
        """How many layers have experts here."""

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""

    def experts(self, layer: int) -> Experts:
        """As `moe` takes them; what their tables say of an expert holds from its `ensure` until another layer's."""

    def ensure(self, layer: int, ids: Tensor) -> None:
        """Has the experts ids [T, K] int32 of a layer read where they are not there. `moe` waits for each.

        Entries of −1 are nobody's.
        """

    def prefetch(self, layer: int, scores: Tensor, top: int) -> None:
        """Reads likely experts of a layer to come, behind everything that is asked for.

        Args:
            layer: Of the same step.
            scores: [T, E] float32, by which rows would choose them.
            top: How many of each row are likely.
        """

    def check(self) -> None:
        """To be called when a step is over.

        Raises:
            DataLoss, Unavailable: an expert of it could not be read, and the step's result means nothing. What could
                be mended has been: the same step may be run again.
        """

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        """Between steps: what the layer's experts are now, by their numbers in the packed file."""

    @property
    def counts(self) -> Counts:
        """What has happened so far."""

    def close(self) -> None:
        """Ends its threads, writes down who was needed most, and lets the memory go. Idempotent."""
